"""What is told of a LoRA file is what the host makes of it, whoever wrote the file."""

from __future__ import annotations

from typing import Any

import pytest
from host_server import run_program


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What lora_program.py saw."""
    return run_program("lora_program.py", tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize(
    ("kind", "in_unet", "in_text"),
    [
        ("kohya", 8, 1), ("peft", 8, 0), ("peft, named default", 8, 0), ("peft of the U-Net alone", 8, 0),
        ("diffusers", 8, 0), ("three factors", 2, 0), ("differences", 2, 0), ("norms", 3, 0),
    ],
)  # fmt: skip
def test_of_a_file_that_fits_every_module_is_counted_and_moves_its_weight(
    found: dict[str, Any], kind: str, in_unet: int, in_text: int
) -> None:
    told = found["with CLIP"][kind]
    assert told["report"] == f"{in_unet} modules matched in the U-Net, {in_text} in the text encoders."
    assert told["left out"] == ""
    layers = {key.removesuffix(".weight").removesuffix(".bias") for key in told["moved"]}
    assert len(layers) == in_unet and all(told["moved"].values())


@pytest.mark.parametrize("kind", ["peft", "peft, named default", "peft of the U-Net alone", "diffusers"])
def test_names_of_diffusers_reach_the_layers_that_kohyas_reach(found: dict[str, Any], kind: str) -> None:
    assert found["with CLIP"][kind]["moved"].keys() == found["with CLIP"]["kohya"]["moved"].keys()


@pytest.mark.parametrize(
    ("kind", "in_unet", "rest"),
    [
        ("one of another shape", 8, "2 are of another shape than the model's: diffusion_model.input_blocks."),
        ("a magnitude that nobody reads", 8, "1 found no place: unet.down_blocks."),
    ],
)
def test_what_of_a_file_fits_nowhere_is_told_and_left_out(
    found: dict[str, Any], kind: str, in_unet: int, rest: str
) -> None:
    told = found["with CLIP"][kind]
    first, second = told["report"].split("\n")
    assert first == f"{in_unet} modules matched in the U-Net, 0 in the text encoders."
    assert second.startswith(rest)
    assert told["left out"] == told["report"]
    assert len(told["moved"]) == in_unet and all(told["moved"].values())


@pytest.mark.parametrize(
    ("kind", "modules", "why"),
    [
        ("all of another shape", 8, "they have other shapes than its layers, such as diffusion_model.input_blocks."),
        ("a product of another shape", 1, "they have other shapes than its layers, such as diffusion_model."),
        ("unknown names", 8, "it is of another architecture, or has names that ComfyUI does not know, such as network"),
    ],
)
def test_a_file_of_which_nothing_fits_is_refused_with_the_reason(
    found: dict[str, Any], kind: str, modules: int, why: str
) -> None:
    refused = found["with CLIP"][kind]["refused"]
    assert refused.startswith(f"None of the LoRA's {modules} modules fits this MODEL: {why}")


def test_without_a_clip_nobody_misses_the_modules_of_text_encoders(found: dict[str, Any]) -> None:
    assert found["without"]["kohya"]["report"] == "8 modules matched in the U-Net, 0 in the text encoders."
    assert found["without"]["text alone"]["refused"].endswith("all for the text encoders, and no CLIP is connected.")


@pytest.mark.parametrize("way", ["computed", "from disk", "fast"])
def test_a_lora_that_fits_in_part_is_told_however_its_cells_come(found: dict[str, Any], way: str) -> None:
    (note,) = [note for note in found["half"][way] if "fits in part" in note]
    first, nowhere, odd = note.split("\n")
    assert first.startswith("The LoRA half.safetensors fits in part: 4 modules matched in the U-Net")
    assert nowhere == "1 found no place: lora_unet_nowhere."
    assert odd == "1 are of another shape than the model's: diffusion_model.out.2."
    assert not any("exactly and not in batches" in note for note in found["half"][way])


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_cells_of_a_lora_of_another_shape_fail_and_are_not_the_base(found: dict[str, Any], mode: str) -> None:
    *made, first, second = found["wide"][mode]["errors"]
    assert made == ["", ""] and first == second
    assert first.startswith("None of the LoRA's 4 modules fits this MODEL: they have other shapes than its layers")
    # what is a sentence already gets no second full stop
    assert not any(note.endswith("..") for note in found["wide"][mode]["notes"])
