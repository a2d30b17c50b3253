"""What a training step measures and at which noise: the options of `LossSettings` as pure functions of tensors.

Images are (N, C, H, W), per-image numbers (N,). Every function draws from the generator that it is given, on the CPU.
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from ..device import to_device
from ..settings.options import LossSettings

# sd-scripts' prepare_scheduler_for_custom_training caps it for the debiased weights
_MOST_SNR = 1000.0
# a schedule with zero terminal SNR ends at ᾱ = 0, where 1/√SNR would be infinite
_LEAST_SNR = 1e-8


def signal_to_noise(alpha_bar: torch.Tensor) -> torch.Tensor:
    """SNR = ᾱ / (1 - ᾱ)."""
    return alpha_bar / (1 - alpha_bar)


def draw_timesteps(count: int, levels: int, settings: LossSettings, generator: torch.Generator) -> torch.Tensor:
    """(count,) int64, uniform from min_timestep up to but without max_timestep, of a schedule of ``levels``."""
    return torch.randint(min(settings.min_timestep, levels - 1), min(settings.max_timestep, levels), (count,),
                         generator=generator)  # fmt: skip


def draw_noise(x0: torch.Tensor, settings: LossSettings, generator: torch.Generator) -> torch.Tensor:
    """Gaussian noise like ``x0``, with offset and lower frequencies added as the settings say."""
    noise = to_device(torch.randn(x0.shape, generator=generator), x0.device)
    if settings.noise_offset or settings.adaptive_noise_scale:
        noise = _offset(noise, x0, settings, generator)
    if settings.pyramid_iterations:
        noise = _pyramid(noise, settings, generator)
    return noise


def _offset(noise: torch.Tensor, x0: torch.Tensor, settings: LossSettings, generator: torch.Generator) -> torch.Tensor:
    """One more draw for each image and channel (Guttenberg, 2023; sd-scripts' apply_noise_offset)."""
    strength: torch.Tensor | float = settings.noise_offset
    if settings.noise_offset_random:
        strength = settings.noise_offset * torch.rand(1, generator=generator).item()
    if settings.adaptive_noise_scale:
        own = x0.mean(dim=(2, 3), keepdim=True).abs()
        strength = (strength + settings.adaptive_noise_scale * own).clamp(min=0)
    drawn = to_device(torch.randn(*noise.shape[:2], 1, 1, generator=generator), noise.device)
    return noise + strength * drawn


def _pyramid(noise: torch.Tensor, settings: LossSettings, generator: torch.Generator) -> torch.Tensor:
    """Noise of ever lower resolution and weight added, and all scaled to a deviation of 1.

    Whitaker (2023); sd-scripts' pyramid_noise_like: the n-th addition is r^n times smaller, r drawn from 2 to 4.
    """
    height, width = noise.shape[2:]
    for level in range(settings.pyramid_iterations):
        ratio = 2 + 2 * torch.rand(1, generator=generator).item()
        low = max(1, int(height / ratio**level)), max(1, int(width / ratio**level))
        drawn = to_device(torch.randn(*noise.shape[:2], *low, generator=generator), noise.device)
        noise = noise + settings.pyramid_discount**level * F.interpolate(drawn, (height, width), mode="bilinear")
        if 1 in low:
            break
    return noise / noise.std()


def perturbed(noise: torch.Tensor, settings: LossSettings, generator: torch.Generator) -> torch.Tensor:
    """The noise that the U-Net sees, with the input perturbation of Ning et al. (2023); the target keeps ``noise``."""
    if not settings.input_perturbation:
        return noise
    strength = settings.input_perturbation
    if settings.input_perturbation_random:
        strength *= torch.rand(1, generator=generator).item()
    return noise + strength * to_device(torch.randn(noise.shape, generator=generator), noise.device)


def huber_parameter(alpha_bar: torch.Tensor, timesteps: torch.Tensor, settings: LossSettings) -> torch.Tensor:
    """c of the pseudo-Huber loss for each image (sd-scripts' get_huber_threshold_if_needed; Khrapov et al., 2024)."""
    if settings.huber_schedule == "exponential":
        return torch.exp(math.log(settings.huber_c) / 1000 * timesteps)
    if settings.huber_schedule == "snr":
        sigma = ((1 - alpha_bar) / alpha_bar).sqrt()
        return (1 - settings.huber_c) / (1 + sigma) ** 2 + settings.huber_c
    return torch.full_like(alpha_bar, settings.huber_c)


def error_per_value(
    guess: torch.Tensor, goal: torch.Tensor, c: torch.Tensor | None, settings: LossSettings
) -> torch.Tensor:
    """l2, 2c(√(d² + c²) - c) for ``huber``, or 2(√(d² + c²) - c) for ``smooth_l1``, in fp32 (conditional_loss)."""
    squared = (guess.float() - goal.float()).square()
    if settings.kind == "l2" or c is None:
        return squared
    c = c.view(-1, 1, 1, 1)
    smooth = 2 * ((squared + c**2).sqrt() - c)
    return c * smooth if settings.kind == "huber" else smooth


def weight_of_level(alpha_bar: torch.Tensor, prediction: str, settings: LossSettings) -> torch.Tensor:
    """What the noise level of each image makes it count for: 1 unless the settings say otherwise.

    Min-SNR: min(SNR, γ)/SNR, or /(SNR + 1) for v-prediction (Hang et al., 2023; apply_snr_weight). Debiased:
    1/√SNR, or 1/(SNR + 1) (Yu et al., 2023; apply_debiased_estimation). v like noise: SNR/(SNR + 1)
    (scale_v_prediction_loss_like_noise_prediction). Finite also at ᾱ = 0.
    """
    snr = signal_to_noise(alpha_bar)
    is_v = prediction == "v_prediction"
    weight = torch.ones_like(alpha_bar)
    if settings.min_snr_gamma:
        gamma = torch.full_like(snr, settings.min_snr_gamma)
        # γ/SNR is infinite at SNR 0, where the quotient min(SNR, γ)/SNR has the limit 1
        weight = weight * (torch.minimum(snr, gamma) / (snr + 1) if is_v else (gamma / snr).clamp(max=1))
    if settings.v_prediction_like_noise and is_v:
        capped = snr.clamp(max=_MOST_SNR)
        weight = weight * capped / (capped + 1)
    if settings.debiased:
        capped = snr.clamp(_LEAST_SNR, _MOST_SNR)
        weight = weight * (1 / (capped + 1) if is_v else capped.rsqrt())
    return weight
