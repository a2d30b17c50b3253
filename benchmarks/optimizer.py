"""What a step does to the weights themselves on a CPU, with each in memory of its own and with all of them joined.

    python dev.py bench optimizer [--rank 32] [--rounds 14]

The trained weights cast for the products, their gradients cast back, the norm and AdamW, for the linear layers of
SDXL's U-Net. Both ways take turns within one process; the table tells the median. No model is needed, 4 GB of memory.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import _pack  # noqa: F401 - makes the plugin importable as `pack`
import torch
from _hosts import machine, table
from pack.trainer.adapters.narrow import NarrowPair, NarrowWeights
from pack.trainer.training.adamw import JoinedAdamW
from pack.trainer.training.optim import gradient_norm
from torch import nn

# width of a level and its transformer blocks, and attentions with a linear layer before and after their blocks
LEVELS = ((640, 10, 5), (1280, 60, 6))
TEXT = 2048
RATE, MOST_NORM = 1e-4, 1.0


@dataclass(frozen=True)
class Options:
    rank: int
    rounds: int


def options_of() -> Options:
    parser = argparse.ArgumentParser(prog="dev.py bench optimizer", description=__doc__)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=14)
    return Options(**vars(parser.parse_args()))


def layers() -> list[tuple[int, int]]:
    """(out, in) of each linear layer that a LoRA of SDXL's U-Net has, 722 of them."""
    sizes: list[tuple[int, int]] = []
    for width, blocks, attentions in LEVELS:
        square, text = (width, width), (width, TEXT)
        block = [square] * 4 + [square, text, text, square] + [(8 * width, width), (width, 4 * width)]
        sizes += block * blocks + [square] * (2 * attentions)
    return sizes


class Apart:
    """Each weight, and each of the optimizer's moments, in memory of its own."""

    name = "each weight in memory of its own"

    def __init__(self, rank: int) -> None:
        sizes = layers()
        shapes = [(rank, before) for _, before in sizes] + [(after, rank) for after, _ in sizes]
        self.weights = [nn.Parameter(torch.randn(shape) / 100) for shape in shapes]
        self._narrow = [weight.detach().bfloat16() for weight in self.weights]
        self._gradients = [torch.randn_like(tensor) for tensor in self._narrow]
        for weight in self.weights:
            weight.grad = torch.zeros_like(weight)
        self._optimizer = torch.optim.AdamW(self.weights, lr=RATE, fused=True)

    @torch.no_grad()
    def cast(self) -> None:
        torch._foreach_copy_(self._narrow, self.weights)
        torch._foreach_copy_([weight.grad for weight in self.weights], self._gradients)

    def norm(self) -> None:
        gradient_norm(self.weights, MOST_NORM)

    def step(self) -> None:
        self._optimizer.step()


class Together:
    """As the trainer has them: `NarrowWeights` and `JoinedAdamW`."""

    name = "joined"

    def __init__(self, rank: int) -> None:
        self._pairs = [
            NarrowPair(
                nn.Parameter(torch.randn(rank, before) / 100),
                nn.Parameter(torch.zeros(after, rank)),
                1.0,
                torch.bfloat16,
            )
            for after, before in layers()
        ]
        self._narrow = NarrowWeights(self._pairs, accumulates=False)
        for pair in self._pairs:
            pair.low_gradient.normal_()
            pair.high_gradient.normal_()
        self._optimizer = JoinedAdamW([{"params": self._narrow.weights, "lr": RATE}], self._narrow, lr=RATE, fused=True)

    def cast(self) -> None:
        self._narrow.renew()
        for pair in self._pairs:
            pair.reached = True
        self._narrow.widen()
        self._narrow.collect()

    def norm(self) -> None:
        gradient_norm(self._narrow.weights, MOST_NORM, self._narrow.joined_gradient())

    def step(self) -> None:
        self._optimizer.step()


def timed(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    options = options_of()
    ways = [Apart(options.rank), Together(options.rank)]
    seen: dict[str, list[tuple[float, ...]]] = {way.name: [] for way in ways}
    # the first makes the optimizer's moments
    for number in range(options.rounds + 1):
        for way in ways:
            times = timed(way.cast), timed(way.norm), timed(way.step)
            if number:
                seen[way.name].append((*times, sum(times)))
    print(f"{machine()}\n{len(layers())} layers, rank {options.rank}, median of {options.rounds} in turns\n")
    rows = [("", "cast", "norm", "AdamW", "together")]
    for name, rounds in seen.items():
        rows.append((name, *(f"{statistics.median(column) * 1e3:.3g} ms" for column in zip(*rounds, strict=True))))
    print(table(rows))


if __name__ == "__main__":
    main()
