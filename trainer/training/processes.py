"""Several processes that train one LoRA: each takes its rows of every batch, and gradients are added up.

The settings' batch is the whole one. Noise, timesteps and latents are drawn for all of it in every process, so the
result is that of one process, up to the order in which numbers are added.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import distributed

from ..dataset.samples import Dataset
from ..errors import SettingsError, TrainerError

Value = TypeVar("Value")


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
        """The device of this process; ``wanted`` counts where it is alone.

        Raises:
            SettingsError: torch knows no device of that name, or cannot use it.
        """
        name = self.name or wanted or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            device = torch.device(name)
        except RuntimeError:
            raise SettingsError(f"There is no device '{name}'; give one such as cpu, cuda or cuda:1.") from None
        try:
            torch.zeros(1, device=device)
        # the second where torch was built without
        except (RuntimeError, AssertionError) as error:
            reason = str(error).partition("\n")[0].rstrip(".")
            raise SettingsError(
                f"The device '{name}' cannot be used ({reason}); give another with --device, such as cpu."
            ) from None
        return device

    def rows(self, count: int) -> slice:
        """This process's part of ``count`` rows; parts differ by one row at most and may be empty."""
        return slice(self.rank * count // self.count, (self.rank + 1) * count // self.count)

    def most_rows(self, count: int) -> int:
        """Of ``count`` rows the most that any process has."""
        return -(-count // self.count)

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
        if not shared:
            return
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

    def from_main(self, make: Callable[[], Value]) -> Value:
        """What ``make`` gives in the main process, which alone calls it: the disks of several machines differ.

        Raises:
            TrainerError: in every process, what it raised in the main one.
        """
        if self.count == 1:
            return make()
        box: list[Any] = [None, None]
        if self.main:
            try:
                box[0] = make()
            except TrainerError as error:
                box[1] = error
        distributed.broadcast_object_list(box, device=self._device)
        if box[1] is not None:
            raise box[1]
        return box[0]

    def tensors_from_main(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The main process's tensors, on the CPU; what the others give is not looked at."""
        if self.count == 1:
            return dict(tensors)
        shapes = self.from_main(lambda: {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()})
        out = {}
        for name, (shape, dtype) in shapes.items():
            own = tensors[name] if self.main else torch.empty(shape, dtype=dtype)
            sent = own.to(self._device)
            distributed.broadcast(sent, 0)
            out[name] = sent.cpu()
        return out

    def from_all(self, value: Value) -> list[Value]:
        """Everybody's ``value``, in the order of the ranks."""
        if self.count == 1:
            return [value]
        out: list[Any] = [None] * self.count
        distributed.all_gather_object(out, value)
        return out

    @property
    def _device(self) -> torch.device:
        """Where messages must lie: NCCL sends from GPUs alone."""
        return torch.device(self.name if self.name and distributed.get_backend() == "nccl" else "cpu")

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
