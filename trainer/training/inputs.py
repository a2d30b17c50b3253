"""What a micro-batch is computed from, once nothing is left to draw or to wait for."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Inputs:
    """Tensors on the device, one row an image: what the networks see, and what their guess is judged by.

    x0, noise, seen: (N, 4, h, w), the latents, the noise that is the target, and the noise that is added.
    timesteps: (N,) int64. time_ids: (N, 6). words: token ids, (N, 2, 77k), where the text encoders are trained, else
    the context, (N, L, 2048), and the pooled output, (N, 1280). mask: (N, 1, h, w) or None. prior: (N,) bool.
    """

    x0: torch.Tensor
    noise: torch.Tensor
    seen: torch.Tensor
    timesteps: torch.Tensor
    time_ids: torch.Tensor
    words: tuple[torch.Tensor, ...]
    mask: torch.Tensor | None
    prior: torch.Tensor

    def tensors(self) -> list[torch.Tensor]:
        """All of them, in one order."""
        own = (self.x0, self.noise, self.seen, self.timesteps, self.time_ids, *self.words, self.mask, self.prior)
        return [tensor for tensor in own if tensor is not None]

    def like(self) -> Inputs:
        """Room for others of the same shapes."""
        mask = None if self.mask is None else torch.empty_like(self.mask)
        words = tuple(map(torch.empty_like, self.words))
        own = (self.x0, self.noise, self.seen, self.timesteps, self.time_ids)
        return Inputs(*map(torch.empty_like, own), words, mask, torch.empty_like(self.prior))
