"""The loss on images that training never sees, at fixed noise and fixed timesteps: a number that can be compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from .data import Example, collate
from .loop import Trainer
from .noise import step_generator

# middles of eight equal bands of the 1000 timesteps
TIMESTEPS = tuple(62 + 125 * band for band in range(8))
_SEED = 20240711


@torch.no_grad()
def held_out_loss(trainer: Trainer, examples: Sequence[Example], on_item: Callable[[int, int], None]) -> float:
    """Mean squared error over the examples and ``TIMESTEPS``; the same noise at every call.

    The latents are the posterior's mean, so nothing here is random. ``on_item(done, of)`` after each image.
    """
    total, timesteps = 0.0, torch.tensor(TIMESTEPS)
    for number, example in enumerate(examples):
        generator = step_generator(_SEED, number)
        # in pieces of the run's own batch size, which is known to fit; one generator draws the same for any size
        for piece in timesteps.split(max(1, trainer.settings.batch_size)):
            batch = collate([example] * len(piece), [example.latents.mean] * len(piece))
            total += trainer.loss_per_image(batch, generator, piece).sum().item()
        on_item(number + 1, len(examples))
    return total / (len(examples) * len(TIMESTEPS))
