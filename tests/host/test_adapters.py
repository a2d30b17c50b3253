"""Every kind of adapter is written in a form that the host's own loader takes whole and computes alike."""

from __future__ import annotations

import math
from typing import Any

import pytest
from host_server import run_program

KINDS = (
    "lora", "lora with convolutions", "rslora", "dora", "dora with convolutions", "pissa", "pissa with convolutions",
    "loha", "loha with convolutions", "lokr", "lokr with convolutions", "some blocks",
)  # fmt: skip


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What adapter_program.py measured in fp32."""
    return run_program("adapter_program.py", tmp_path_factory.mktemp("base"), timeout=900)


@pytest.mark.parametrize("kind", KINDS)
def test_the_host_loads_every_key_and_its_networks_give_what_training_gave(kind: str, found: dict[str, Any]) -> None:
    here = found["kinds"][kind]
    assert here["complaints"] == []
    assert here["left out"] == ""
    assert here["patches"] == here["modules"] > 0
    assert here["U-Net"] < 1e-4
    assert here["text"] < 1e-4
    assert here["what it does"] > 2e-3


@pytest.mark.parametrize("kind", KINDS)
def test_fresh_and_disabled_adapters_are_the_base(kind: str, found: dict[str, Any]) -> None:
    assert found["kinds"][kind]["fresh"] < 1e-4
    assert found["kinds"][kind]["disabled"] < 1e-6


def test_convolutions_and_blocks_change_how_many_layers_are_adapted(found: dict[str, Any]) -> None:
    counts = {kind: found["kinds"][kind]["modules"] for kind in KINDS}
    assert counts["some blocks"] < counts["lora"] < counts["lora with convolutions"]
    assert set(found["kinds"]) == set(KINDS)


def test_an_image_that_finds_no_memory_keeps_its_posterior_in_the_hosts_tiles(found: dict[str, Any]) -> None:
    tiles = found["tiles"]
    # mean and deviation of four channels each, and the host's VAE as it was
    assert tiles["shapes"] == [[1, 4, 80, 72], [1, 4, 80, 72], 4]
    assert tiles["mean"] == pytest.approx([tiles["given"]] * 2, rel=1e-2)
    assert tiles["std"] == pytest.approx([math.exp(0.5 * tiles["given"])] * 2, rel=1e-2)


def test_every_widget_of_the_settings_nodes_reaches_the_settings(found: dict[str, Any]) -> None:
    assert found["ignored widgets"] == []
