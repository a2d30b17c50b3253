"""One batched call gives what single KSampler runs give, for every sampler that is batched."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from host_server import setup_from_environment

import dev

MOST = 1e-4


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What batching_program.py measured in fp32."""
    program = Path(__file__).with_name("batching_program.py")
    base = tmp_path_factory.mktemp("base")
    command = [sys.executable, program, setup_from_environment().comfyui, dev.ROOT, base]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=900, cwd=base, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_every_accepted_sampler_gives_the_same_latents(found: dict[str, Any]) -> None:
    too_far = {sampler: error for sampler, error in found["accepted"].items() if not error <= MOST}
    assert not too_far
    assert found["the difference that weights make"] > 100 * MOST


def test_only_the_adaptive_sampler_is_refused(found: dict[str, Any]) -> None:
    assert set(found["refused"]) == {"dpm_adaptive"}
    assert len(found["accepted"]) >= 43


@pytest.mark.parametrize(
    "case",
    ["prompts of other lengths", "part of the noise", "another size", "inpainting",
     "euler_ancestral without guidance", "dpmpp_2m_cfg_pp without guidance", "dpmpp_sde without guidance"],
)  # fmt: skip
def test_what_else_a_batch_may_hold_makes_no_difference(found: dict[str, Any], case: str) -> None:
    assert found[case] <= MOST


def test_noise_below_a_mask_that_ddim_draws_is_not_batched(found: dict[str, Any]) -> None:
    assert "mask" in found["ddim with a mask"]
