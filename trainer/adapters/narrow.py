"""The trained weights in the number format of the products, made once a step and not once a product.

A LoRA on SDXL has up to 1972 small matrices. Casting each where it is used, and each gradient back, is nothing for the
arithmetic but six launches a layer for a GPU, whose kernels of that size take as long to start as to run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn


@dataclass
class NarrowPair:
    """One layer's A (r, in) and B (out, r): fp32 as trained, and as computed with, where B has the factor s in it.

    in_use: whether the layer computes with the latter.
    """

    down: nn.Parameter
    up: nn.Parameter
    scale: float
    dtype: torch.dtype
    in_use: bool = False

    def __post_init__(self) -> None:
        wide = self.down, self.up
        self.low, self.high = (torch.zeros_like(weight, dtype=self.dtype, requires_grad=True) for weight in wide)


class NarrowWeights:
    """All of a run's pairs. While they are in use gradients come to the narrow ones.

    What one micro-batch left there goes to ``fresh`` (``widen``), and from there to the trained weights (``collect``).
    accumulates: whether a step has several micro-batches.
    """

    def __init__(self, pairs: Sequence[NarrowPair], *, accumulates: bool) -> None:
        self._pairs, self._accumulates = pairs, accumulates
        self._wide = [w for pair in pairs for w in (pair.down, pair.up)]
        self._narrow = [w for pair in pairs for w in (pair.low, pair.high)]
        # B' = s·B, and ∂/∂B = s·∂/∂B'
        self._factors = [factor for pair in pairs for factor in (1.0, pair.scale)]
        self._scaled = any(factor != 1 for factor in self._factors)
        self._fresh: list[torch.Tensor] = []
        self._sums: list[torch.Tensor] = []
        # places of the weights that a backward pass reaches: a text encoder's last layer it does not
        self._reached: list[int] = []

    @torch.no_grad()
    def renew(self) -> None:
        """Make them of the trained weights as they are now."""
        torch._foreach_copy_(self._narrow, self._wide)
        if self._scaled:
            torch._foreach_mul_(self._narrow, self._factors)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Forward and backward passes through them; the trained weights must not change meanwhile."""
        for pair in self._pairs:
            pair.in_use = True
        try:
            yield
        finally:
            for pair in self._pairs:
                pair.in_use = False

    def allocate(self) -> None:
        """Make room for the gradients of one micro-batch, once, and with several of them for their sum."""
        if not self._fresh:
            self._fresh = [torch.empty_like(weight) for weight in self._wide]
            self._sums = [torch.empty_like(weight) for weight in self._wide] if self._accumulates else self._fresh

    @torch.no_grad()
    def widen(self) -> None:
        """Move the gradients that a backward pass left to ``fresh``."""
        self.allocate()
        self._reached = [place for place, weight in enumerate(self._narrow) if weight.grad is not None]
        fresh = [self._fresh[place] for place in self._reached]
        torch._foreach_copy_(fresh, [self._narrow[place].grad for place in self._reached])
        if self._scaled:
            torch._foreach_mul_(fresh, [self._factors[place] for place in self._reached])
        self.forget()

    def forget(self) -> None:
        """Let go of what a backward pass left."""
        for weight in self._narrow:
            weight.grad = None

    @torch.no_grad()
    def collect(self) -> None:
        """Add the micro-batch's gradients to those of the trained weights; those not reached keep none."""
        fresh, sums = ([held[place] for place in self._reached] for held in (self._fresh, self._sums))
        if any(weight.grad is not None for weight in self._wide):
            torch._foreach_add_(sums, fresh)
            return
        if self._accumulates:
            torch._foreach_copy_(sums, fresh)
        for place in self._reached:
            self._wide[place].grad = self._sums[place]
