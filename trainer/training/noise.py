"""The diffusion maths of a training step, as pure functions of tensors."""

from __future__ import annotations

import torch


def add_noise(x0: torch.Tensor, noise: torch.Tensor, alpha_bar: torch.Tensor) -> torch.Tensor:
    """x_t = √ᾱ x₀ + √(1-ᾱ) ε (Ho et al., 2020, eq. 4). ``x0``, ``noise`` (N, C, H, W); ``alpha_bar`` (N,)."""
    a = alpha_bar.view(-1, 1, 1, 1)
    return a.sqrt() * x0 + (1 - a).sqrt() * noise


def target(x0: torch.Tensor, noise: torch.Tensor, alpha_bar: torch.Tensor, prediction: str) -> torch.Tensor:
    """What the U-Net is to predict: ε, or v = √ᾱ ε - √(1-ᾱ) x₀ (Salimans and Ho, 2022)."""
    if prediction == "epsilon":
        return noise
    a = alpha_bar.view(-1, 1, 1, 1)
    return a.sqrt() * noise - (1 - a).sqrt() * x0


def mse_per_image(prediction: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
    """Squared error in fp32, mean over channels and positions: (N, C, H, W) to (N,)."""
    return (prediction.float() - goal.float()).square().mean(dim=(1, 2, 3))


def step_generator(seed: int, *place: int) -> torch.Generator:
    """A CPU generator for one place in a run, such as (step, micro-batch).

    Every draw depends on the seed and the place alone, so a resumed run needs no saved generator state.
    """
    mixed = seed % 2**63
    for number in place:
        # splitmix64's constants spread neighbouring places over the whole range
        mixed = (mixed + 0x9E3779B97F4A7C15 * (number + 1)) % 2**64
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        mixed = (mixed ^ (mixed >> 27)) % 2**63
    return torch.Generator("cpu").manual_seed(mixed)
