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


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_a_cell_of_no_numbers_fails_and_is_not_kept(found: dict[str, Any], mode: str) -> None:
    assert found["not finite"][mode] == [[False, False, True, True]] * 2
    assert found["not finite"][f"{mode}, why"].startswith("Sampling ended in numbers that are not finite")


def test_fast_is_checked_on_a_cell_that_is_an_image(found: dict[str, Any]) -> None:
    made = [False, "fast", "lora_weight 0, cfg 2"]
    assert found["not finite"]["measured"] == [made, made, [True, "exact", None], [True, "exact", None]]


def test_a_vae_that_gives_no_numbers_fails_its_cells(found: dict[str, Any]) -> None:
    assert "The VAE gave numbers that are not finite" in found["not finite"]["VAE"]


def test_what_passes_before_sampling_is_none_of_a_cells_seconds(found: dict[str, Any]) -> None:
    own, everything = found["seconds"]
    assert 0 < own < everything - 2


def test_a_cell_that_shares_its_first_step_has_the_seconds_of_a_whole_cell(found: dict[str, Any]) -> None:
    asked, seconds = found["common step"]
    assert asked == 3
    assert min(seconds) >= 2 * 0.5


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_no_more_than_the_image_in_hand_is_held(found: dict[str, Any], mode: str) -> None:
    # the one before goes when the next one takes its name
    assert 1 <= found["living"][mode] <= 2


def test_that_there_is_no_room_for_batches_is_told(found: dict[str, Any]) -> None:
    assert any("no free memory for two cells at once" in note for note in found["no room"])


def test_memory_that_runs_out_while_decoding_loses_and_repeats_no_cell(found: dict[str, Any]) -> None:
    decoding = found["decoding"]
    assert decoding["written"] == [1, 2, 3, 4] and decoding["failed"] == 0
    assert any(note == "A batch did not fit into memory; smaller ones of 8 follow." for note in decoding["notes"])


def test_samplers_ask_the_model_as_often_as_is_reckoned(found: dict[str, Any]) -> None:
    counted, reckoned = found["evaluations"], found["reckoned"]
    assert counted.keys() == reckoned.keys()
    wrong = {name: (each, reckoned[name]) for name, each in counted.items() if abs(each / reckoned[name] - 1) > 0.2}
    assert not wrong


def test_a_first_step_that_is_the_same_is_computed_once_and_to_the_last_bit(found: dict[str, Any]) -> None:
    counts = {name: count for name, (count, _) in found["first steps"].items()}
    # it hangs on the last bit of a sigma whether those of schedulers begin alike, and on ddim's own noise below a mask
    assert counts.pop("scheduler") in (3, 4) and counts.pop("mask") == 4
    assert counts == {
        # of three shots of six steps together the first is shared
        "CFG scale": 4, "steps": 4, "sampler": 4, "no guidance, CFG++": 3,
        # of ten steps one: with less denoising other steps begin at other sigmas
        "steps and denoise": 9,
        # two shots of two steps that do not begin alike, or of which nobody can know
        "no guidance": 4, "denoise": 4, "seed": 4, "LoRA weight": 4, "prompt": 4, "size": 4,
        "negative prompt": 4, "weight of the text encoders": 4,
        "changed sampling": 4, "wired area": 4,
    }  # fmt: skip
    assert all(same for _, same in found["first steps"].values())


def test_cells_are_named_by_what_they_depend_on_and_nothing_else(found: dict[str, Any]) -> None:
    assert {name for name, right in found["names"].items() if not right} == set()


def test_missing_parts_are_named(found: dict[str, Any]) -> None:
    assert [sentence.split(":")[0] for sentence in found["missing"]] == ["There is no CLIP", "There is no VAE"]


def test_failed_cells_do_not_hide_an_axis_without_effect(found: dict[str, Any]) -> None:
    assert found["without effect"] == {"failed": ["cfg"], "all fail": [], "differ": []}


def test_a_reason_is_told_once_with_the_values_of_its_cells(found: dict[str, Any]) -> None:
    assert found["failures"] == [
        "LoRA a (100 cells): No file.",
        "LoRA b, c; CFG scale 1 (2 cells): No.",
        "LoRA b, CFG scale 3; LoRA c, CFG scale 4 (2 cells): Odd.",
    ]


def test_the_time_left_goes_with_the_work_left(found: dict[str, Any]) -> None:
    assert found["left"][-1] == "sweep: 1/2, 0.10/s, 1:30 left"


def test_a_manifest_tells_the_hashes_of_checkpoints(found: dict[str, Any]) -> None:
    assert found["hashes"] == ["checkpoint other.safetensors", "clip", "model", "vae"]


def test_repeated_values_are_counted_once(found: dict[str, Any]) -> None:
    assert found["repeated"].startswith(
        "3 cells, 3 sampling steps; 0 of the cells are on disk, 2 to compute with 2 steps, 1 the same as others."
    )
