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
    ["a common first step", "prompts of other lengths", "part of the noise", "another size", "inpainting",
     "euler_ancestral without guidance", "dpmpp_2m_cfg_pp without guidance", "dpmpp_sde without guidance"],
)  # fmt: skip
def test_what_else_a_batch_may_hold_makes_no_difference(found: dict[str, Any], case: str) -> None:
    assert found[case] <= MOST


def test_a_first_step_that_images_have_in_common_is_computed_once(found: dict[str, Any]) -> None:
    # two kinds, and then four images
    assert found["images in two steps of four"] == 2 + 4


def test_noise_below_a_mask_that_ddim_draws_is_not_batched(found: dict[str, Any]) -> None:
    assert "mask" in found["ddim with a mask"]


def test_several_masks_for_one_latent_are_not_spread_over_the_batch(found: dict[str, Any]) -> None:
    assert "several masks" in found["two masks"] and found["one mask"] == ""
