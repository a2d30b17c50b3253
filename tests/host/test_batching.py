"""One batched call gives what single KSampler runs give, for every sampler that is batched."""

from __future__ import annotations

from typing import Any

import pytest
from host_server import run_program

MOST = 1e-4


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What batching_program.py measured in fp32."""
    return run_program("batching_program.py", tmp_path_factory.mktemp("base"), timeout=900)


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
