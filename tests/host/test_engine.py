"""What a sweep loads, how it batches, and whether what it counts is so."""

from __future__ import annotations

from typing import Any

import pytest
from host_server import run_program


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What engine_program.py saw."""
    return run_program("engine_program.py", tmp_path_factory.mktemp("base"))


def test_a_checkpoint_that_cannot_be_loaded_fails_its_own_fast_cells(found: dict[str, Any]) -> None:
    broken = found["broken"]
    assert [bool(error) for error in broken["errors"]] == [False, False, True, True, False, False]
    assert broken["ways"][:2] == broken["ways"][4:] == ["fast", "fast"]


def test_a_fast_sweep_loads_a_checkpoint_once(found: dict[str, Any]) -> None:
    assert found["broken"]["loaded"].count("other.safetensors") == 1


def test_the_difference_is_measured_on_the_strongest_cell_of_its_own_way(found: dict[str, Any]) -> None:
    measured = found["measured"]
    assert measured["mixed"] == [[["euler", "bypass"], "lora_weight 1, cfg 8"]]
    assert measured["whole"] == [[["euler", "merged"], "cfg 7"]]
    assert measured["of every cell"] == ["lora_weight 1, cfg 8"]


def test_the_seconds_of_the_check_are_none_of_a_cells(found: dict[str, Any]) -> None:
    checking, busy, of_cells = found["measured"]["seconds"]
    assert 0 < checking < busy and of_cells == pytest.approx(busy - checking, rel=1e-6)


def test_a_weight_that_changes_alone_leaves_the_other_part_as_it_is(found: dict[str, Any]) -> None:
    assert found["kept"] == {"model": True, "clip": True}


def test_a_lora_that_fits_in_part_is_told(found: dict[str, Any]) -> None:
    (note,) = found["half"]
    assert note.startswith("The LoRA half.safetensors fits in part: 4 modules matched in the U-Net")
    assert "1 found no place: lora_unet_nowhere." in note


def test_what_passes_before_sampling_is_none_of_a_cells_seconds(found: dict[str, Any]) -> None:
    own, everything = found["seconds"]
    assert 0 < own < everything - 2


def test_samplers_ask_the_model_as_often_as_is_reckoned(found: dict[str, Any]) -> None:
    counted, reckoned = found["evaluations"], found["reckoned"]
    assert counted.keys() == reckoned.keys()
    wrong = {name: (each, reckoned[name]) for name, each in counted.items() if abs(each / reckoned[name] - 1) > 0.2}
    assert not wrong


def test_cells_are_named_by_what_they_depend_on_and_nothing_else(found: dict[str, Any]) -> None:
    assert {name for name, right in found["names"].items() if not right} == set()


def test_missing_parts_are_named(found: dict[str, Any]) -> None:
    assert [sentence.split(":")[0] for sentence in found["missing"]] == ["There is no CLIP", "There is no VAE"]


def test_failed_cells_do_not_hide_an_axis_without_effect(found: dict[str, Any]) -> None:
    assert found["without effect"] == {"failed": ["cfg"], "all fail": [], "differ": []}


def test_the_time_left_goes_with_the_work_left(found: dict[str, Any]) -> None:
    assert found["left"][-1] == "sweep: 1/2, 0.10/s, 1:30 left"


def test_a_manifest_tells_the_hashes_of_checkpoints(found: dict[str, Any]) -> None:
    assert found["hashes"] == ["checkpoint other.safetensors", "clip", "model", "vae"]


def test_repeated_values_are_counted_once(found: dict[str, Any]) -> None:
    assert found["repeated"].startswith(
        "3 cells, 3 sampling steps; 0 of the cells are on disk, 2 to compute with 2 steps, 1 the same as others."
    )
