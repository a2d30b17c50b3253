"""Loss by Weight measures what the training saw, with the words that the training used."""

from __future__ import annotations

from typing import Any

import pytest
from host_server import run_program


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What loss_program.py saw: six texts, three of images that are trained on and three of held-out ones."""
    return run_program("loss_program.py", tmp_path_factory.mktemp("base"))


def images(texts: list[str]) -> list[str]:
    """Names of images, which their captions begin with behind the trigger."""
    return [text.removeprefix("mjesec, ").split(",")[0] for text in texts]


def test_captions_have_the_trigger_and_one_of_each_choice(found: dict[str, Any]) -> None:
    assert len(found["encoded"]) == 6 and found["encoded"] == found["told"]
    for text in found["encoded"]:
        assert text.startswith("mjesec, ") and text.endswith((", red", ", blue"))


def test_images_of_regularisation_are_none_that_a_lora_is_trained_on(found: dict[str, Any]) -> None:
    assert found["first folders"] == ["prior"]
    assert not any(name.startswith("prior") for name in images(found["encoded"]))


def test_images_are_drawn_from_all_folders(found: dict[str, Any]) -> None:
    trained, held_out = images(found["encoded"])[:3], images(found["encoded"])[3:]
    assert {name.rpartition(" ")[0] for name in trained} == {"first", "second folder"}
    assert set(held_out) <= set(found["held out"]) and not set(trained) & set(found["held out"])


def test_that_a_lora_fits_in_part_is_told(found: dict[str, Any]) -> None:
    told = (
        "The LoRA fits in part: 4 modules matched in the U-Net, 0 in the text encoders.\n1 found no place: lora_unet_"
    )
    assert told in found["report"]
