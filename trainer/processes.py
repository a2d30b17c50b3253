"""Several processes that train one LoRA: each takes its rows of every batch, and gradients are added up.

The settings' batch is the whole one. Noise, timesteps and latents are drawn for all of it in every process, so the
result is that of one process, up to the order in which numbers are added.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import distributed

from .samples import Dataset


@dataclass(frozen=True)
class Processes:
    """This process among ``count``; alone by default. ``name``: the device that accelerate chose for it."""

    rank: int = 0
    count: int = 1
    name: str = ""

    @property
    def main(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def device(self, wanted: str = "") -> torch.device:
        """The device of this process; ``wanted`` counts where it is alone."""
        return torch.device(self.name or wanted or ("cuda" if torch.cuda.is_available() else "cpu"))

    def rows(self, count: int) -> slice:
        """This process's part of ``count`` rows; parts differ by one row at most and may be empty."""
        return slice(self.rank * count // self.count, (self.rank + 1) * count // self.count)

    def share_of(self, dataset: Dataset) -> Dataset:
        """Every ``count``-th image."""
        return replace(dataset, samples=dataset.samples[self.rank :: self.count])

    def add_gradients(self, weights: Sequence[torch.nn.Parameter]) -> None:
        """Make every gradient the sum over all processes; weights that have none anywhere keep none."""
        if self.count == 1:
            return
        device = weights[0].device
        held = torch.tensor([weight.grad is not None for weight in weights], dtype=torch.int32, device=device)
        distributed.all_reduce(held)
        shared = [weight for weight, count in zip(weights, held.tolist(), strict=True) if count]
        for weight in shared:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        # one message instead of thousands
        together = torch.cat([weight.grad.reshape(-1) for weight in shared])
        distributed.all_reduce(together)
        for weight, piece in zip(shared, together.split([weight.numel() for weight in shared]), strict=True):
            weight.grad.copy_(piece.view_as(weight))

    def add(self, value: torch.Tensor) -> torch.Tensor:
        """The sum of everybody's ``value``."""
        if self.count == 1:
            return value
        total = value.clone()
        distributed.all_reduce(total)
        return total

    def wait(self) -> None:
        """Go on when every process has come here."""
        if self.count > 1:
            distributed.barrier()


ALONE = Processes()


@contextmanager
def join(device: str = "") -> Iterator[Processes]:
    """The processes that ``accelerate launch`` or ``torchrun`` started, connected until the end of the block."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    from accelerate import PartialState

    state = PartialState(cpu=device == "cpu" or not torch.cuda.is_available())
    try:
        yield Processes(state.process_index, state.num_processes, str(state.device))
    finally:
        state.destroy_process_group()
