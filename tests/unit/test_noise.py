"""The diffusion maths, against values worked out by hand."""

from __future__ import annotations

import pytest
import torch
from pack.trainer.sdxl.parts import scaled_linear_alpha_bar
from pack.trainer.training.noise import add_noise, mse_per_image, step_generator, target


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_alpha_bar_is_the_scaled_linear_schedule_of_stable_diffusion() -> None:
    alpha_bar = scaled_linear_alpha_bar()
    # √β runs linearly from √0.00085 to √0.012; the last value is known from Lin et al. (2023), table 1
    assert alpha_bar[0].item() == pytest.approx(1 - 0.00085)
    assert alpha_bar[-1].item() == pytest.approx(0.068265**2, rel=1e-3)
    assert alpha_bar.shape == (1000,)
    assert (alpha_bar.diff() < 0).all()


def test_each_image_is_mixed_by_its_own_alpha_bar() -> None:
    x0, noise = draw(1, 2, 4, 8, 8), draw(2, 2, 4, 8, 8)
    mixed = add_noise(x0, noise, torch.tensor([1.0, 0.36]))
    assert torch.equal(mixed[0], x0[0])
    torch.testing.assert_close(mixed[1], 0.6 * x0[1] + 0.8 * noise[1])


def test_epsilon_is_the_noise_itself() -> None:
    x0, noise = draw(1, 1, 4, 8, 8), draw(2, 1, 4, 8, 8)
    assert torch.equal(target(x0, noise, torch.tensor([0.5]), "epsilon"), noise)


def test_image_and_noise_follow_from_v_and_the_noisy_image() -> None:
    x0, noise, a = draw(1, 3, 4, 8, 8), draw(2, 3, 4, 8, 8), torch.tensor([0.9, 0.5, 0.1])
    v, noisy = target(x0, noise, a, "v_prediction"), add_noise(x0, noise, a)
    clean, rest = a.sqrt().view(-1, 1, 1, 1), (1 - a).sqrt().view(-1, 1, 1, 1)
    torch.testing.assert_close(clean * noisy - rest * v, x0)
    torch.testing.assert_close(rest * noisy + clean * v, noise)


def test_the_error_is_a_mean_over_each_image_in_fp32() -> None:
    guess = torch.zeros(2, 4, 8, 8, dtype=torch.float16)
    goal = torch.stack([torch.full((4, 8, 8), 300.0), torch.full((4, 8, 8), 2.0)])
    error = mse_per_image(guess, goal)
    assert error.dtype == torch.float32
    # 300² is more than fp16 can hold
    assert error.tolist() == [90000.0, 4.0]


def test_the_same_place_in_a_run_draws_the_same_numbers() -> None:
    draws = [torch.randn(8, generator=step_generator(7, 2, 5, 0)) for _ in range(2)]
    assert torch.equal(*draws)


def test_other_places_and_other_seeds_draw_other_numbers() -> None:
    places = [(kind, step, micro) for kind in range(3) for step in range(20) for micro in range(4)]
    draws = {
        tuple(torch.randn(2, generator=step_generator(seed, *place)).tolist()) for place in places for seed in (0, 1)
    }
    assert len(draws) == 2 * len(places)


@pytest.mark.parametrize("seed", [0, 2**31, 2**63 - 1])
def test_every_allowed_seed_works(seed: int) -> None:
    assert torch.isfinite(torch.randn(4, generator=step_generator(seed, 0, 10**6))).all()


def test_neighbouring_places_are_uncorrelated() -> None:
    rows = torch.stack([torch.randn(4096, generator=step_generator(0, 2, step, 0)) for step in range(16)])
    correlation = torch.corrcoef(rows) - torch.eye(16)
    assert correlation.abs().max() < 5 / 4096**0.5
