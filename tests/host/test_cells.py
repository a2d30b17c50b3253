"""No cell lies under a name that is not its own, and what fails costs no more than it must."""

from __future__ import annotations

from typing import Any

import pytest
from host_server import run_program


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What cells_program.py saw."""
    return run_program("cells_program.py", tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("lora", "The LoRA 'changed.safetensors' was changed while the sweep ran"),
        ("checkpoint", "The checkpoint 'other.safetensors' was changed while the sweep ran"),
        ("embedding", "The folder of embeddings was changed while the sweep ran"),
        ("unreadable lora", "changed.safetensors"),
    ],
)
def test_a_file_that_is_another_than_the_name_says_fails_its_own_cell(
    found: dict[str, Any], kind: str, words: str
) -> None:
    stays, changed = found["replaced"][kind]
    assert stays == "" and words in changed
    assert not changed.startswith(("LoraFileError", "ValueError")), "a sentence needs no name of a class"


def test_whatever_changes_pixels_changes_the_name(found: dict[str, Any]) -> None:
    assert found["keys"].pop("nothing") is False
    assert {name for name, differs in found["keys"].items() if not differs} == set()


def test_what_a_killed_process_left_half_written_is_removed(found: dict[str, Any]) -> None:
    assert found["half written"] == [".new.png.2b.part"]


def test_a_damaged_cell_is_made_again(found: dict[str, Any]) -> None:
    assert found["damaged"] == ["computed", "computed", "cached", "cached"]


@pytest.mark.parametrize(
    ("disk", "samplings"), [("no folder", 0), ("no folder, fast", 0), ("full", 1), ("full, fast", 2)]
)
def test_a_sweep_ends_where_no_cell_can_be_kept(found: dict[str, Any], disk: str, samplings: int) -> None:
    """In fast mode one batch and the cell that it is checked on are sampled."""
    sampled, said = found["disks"][disk]
    assert sampled == samplings
    assert said.startswith("Could not write") and said.endswith("check the folder and its free space.")


def test_fast_is_checked_under_the_strongest_guidance_for_each_sampler(found: dict[str, Any]) -> None:
    checks = found["checks"]
    assert checks["samplers"] == ["dpmpp_2m", "euler"] and checks["own sampler"]
    assert all("cfg 8" in cell for cell in checks["cells"]) and len(checks["cells"]) == 2


def test_the_measured_difference_stays_with_the_cells(found: dict[str, Any]) -> None:
    checks = found["checks"]
    assert checks["sources"] == ["cached"]
    assert checks["kept"] == checks["fresh"] and 0 <= checks["kept"]["relative_latent_error"] < 1e-3


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_one_bar_runs_over_the_cells(found: dict[str, Any], mode: str) -> None:
    shown = found["bars"][mode]
    assert {of for _, of in shown} == {6}
    done = [done for done, _ in shown]
    assert done == sorted(done) and done[-1] == 6
    # the steps of a cell are parts of it; of quick ones the host shows none
    assert mode == "exact" or any(value != int(value) for value in done)


def test_the_time_left_is_that_of_the_items_left(found: dict[str, Any]) -> None:
    # 7 items of 10 s
    assert len(found["left"]) == 2
    assert all(line.endswith("0.10/s, 1:10 left") for line in found["left"]), found["left"]


def test_no_text_is_encoded_twice(found: dict[str, Any]) -> None:
    encoded, different = found["texts"]
    assert encoded == different == 91


def test_a_strip_of_nothing_is_refused_in_a_sentence(found: dict[str, Any]) -> None:
    assert found["strip"].startswith("denoise is 0: nothing is sampled")


def test_memory_is_told_beforehand(found: dict[str, Any]) -> None:
    assert "Memory: about" in found["memory"] and "MiB to sample" in found["memory"]


def test_a_clip_score_is_the_cosine_of_image_and_prompt(found: dict[str, Any]) -> None:
    """By a random vision model of the host's class: its loader knows real sizes only."""
    clip = found["clip"]
    assert len(set(clip["scores"])) == 4 and all(-1 <= score <= 1 for score in clip["scores"])
    assert clip["scores"][0] == pytest.approx(clip["first"], abs=1e-5)
    assert "they are no pair" in clip["refused"]
