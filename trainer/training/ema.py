"""A running mean of the adapters' weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch


class RunningMean:
    """w̄ ← d · w̄ + (1 - d) · w, begun at the weights as they are. float32, on the weights' device.

    In step t, from 0, d is the decay or (1 + t) / (10 + t), whichever is lower (TensorFlow's ExponentialMovingAverage,
    diffusers' EMAModel): without that a short run's mean is mostly the weights that it began with.
    """

    def __init__(self, weights: Sequence[torch.Tensor], decay: float) -> None:
        self.decay = decay
        self.values = [weight.detach().clone() for weight in weights]

    @torch.no_grad()
    def update(self, weights: Sequence[torch.Tensor], step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.values, [weight.detach() for weight in weights], 1 - decay)
