"""A CPU's layers hold wide weights while a cell is sampled: the same bits come out, and the host has its own again."""

from __future__ import annotations

from typing import Any

import pytest
from host_server import run_program

NARROW, WIDE = "torch.bfloat16", "torch.float32"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What widened_program.py saw with the U-Net in bf16."""
    return run_program("widened_program.py", tmp_path_factory.mktemp("base"), timeout=600)


def test_no_bit_of_the_latents_changes(found: dict[str, Any]) -> None:
    assert found["equal"] == dict.fromkeys(["euler", "dpmpp_2m", "dpmpp_sde", "one step", "little memory"], True)


@pytest.mark.parametrize("when", ["euler", "dpmpp_2m", "dpmpp_sde", "interrupted"])
def test_all_weights_are_wide_during_a_sampling(when: str, found: dict[str, Any]) -> None:
    assert set(found["during"][when]) == {WIDE}


def test_one_step_gains_nothing_and_changes_nothing(found: dict[str, Any]) -> None:
    assert found["during"]["one step"] == found["after"]


def test_only_as_many_are_wide_as_memory_is_free_for(found: dict[str, Any]) -> None:
    part, whole = found["during"]["little memory"], found["during"]["euler"]
    assert 0 < part[WIDE] < whole[WIDE] and part[NARROW] > 0


def test_the_host_decides_nothing_otherwise_because_less_memory_is_free(found: dict[str, Any]) -> None:
    # with and without guidance in one call
    assert found["rows at once"] == {"ours": [2, 2, 2], "the host's": [2, 2, 2]}


def test_the_host_has_its_own_weights_again(found: dict[str, Any]) -> None:
    assert found["unchanged"]
    assert found["after an interrupt"] == found["after"]
    assert found["after"][NARROW] > 100
