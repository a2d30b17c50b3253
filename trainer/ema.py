"""A running mean of the adapters' weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch


class RunningMean:
    """w̄ ← decay · w̄ + (1 - decay) · w, begun at the weights as they are. float32, on the weights' device."""

    def __init__(self, weights: Sequence[torch.Tensor], decay: float) -> None:
        self.decay = decay
        self.values = [weight.detach().clone() for weight in weights]

    @torch.no_grad()
    def update(self, weights: Sequence[torch.Tensor]) -> None:
        torch._foreach_lerp_(self.values, [weight.detach() for weight in weights], 1 - self.decay)
