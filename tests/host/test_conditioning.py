"""What training hands to the U-Net and gets back is what the host computes, on the tiny SDXL's weights in fp32.

ComfyUI is imported as a library in a process of its own (`benchmarks/compare.py`), because it reads its command line
when it is imported and because its `nodes` must not meet ours.
"""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
from host_server import setup_from_environment

import dev

Findings = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    """Every comparison by its name: value, limit and whether it holds."""
    setup = setup_from_environment()
    answer = tmp_path_factory.mktemp("compare") / "findings.json"
    program = dev.ROOT / "benchmarks" / "compare.py"
    command = [setup.python, program, "--tiny", "--precision", "fp32", "--json", answer]
    environment = {**dev.clean_environment(), "COMFYUI_PATH": str(setup.comfyui)}
    done = subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True, check=False)
    assert answer.is_file(), f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return dict(json.loads(answer.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "name",
    [
        "latents",
        "text context",
        "pooled text",
        "time ids",
        "U-Net's prediction",
        "with the LoRA: text context",
        "with the LoRA: pooled text",
        "with the LoRA: time ids",
        "with the LoRA: U-Net's prediction",
    ],
)
def test_training_and_host_agree_to_one_in_ten_thousand(findings: Findings, name: str) -> None:
    assert findings[name]["value"] <= 1e-4


def test_the_lora_changes_the_prediction_far_more_than_that(findings: Findings) -> None:
    assert findings["effect of the LoRA"]["value"] >= 1e-2


def test_every_base_weight_of_the_trainer_is_the_hosts_own_memory(findings: Findings) -> None:
    assert findings["weights shared with the host"]["value"] == 1.0


def test_the_bytes_of_the_frozen_base_are_the_same_after_training(findings: Findings) -> None:
    assert findings["frozen base unchanged"]["value"] == 1.0


def test_nothing_was_compared_that_is_not_asserted_here(findings: Findings) -> None:
    assert all(finding["holds"] for finding in findings.values()), findings
    assert len(findings) == 12
