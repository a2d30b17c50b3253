"""The trained weights in the number format of the products, made once a step and not once a product.

A LoRA on SDXL has up to 1972 small matrices. Casting each where it is used, and each gradient back, is nothing for the
arithmetic but six launches a layer for a GPU, whose kernels of that size take as long to start as to run. The narrow
weights' gradients, and the trained ones', lie one after the other in memory, so that what is done to all of them is
one operation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn


@dataclass
class NarrowPair:
    """One layer's A (r, in) and B (out, r): fp32 as trained, and as computed with, where B has the factor s in it.

    in_use: whether the layer computes with the latter. reached: whether a backward pass has left gradients of them.
    """

    down: nn.Parameter
    up: nn.Parameter
    scale: float
    dtype: torch.dtype
    in_use: bool = False
    reached: bool = False
    # what is computed with, and room for their gradients: where `NarrowWeights` says
    low: torch.Tensor = field(init=False)
    high: torch.Tensor = field(init=False)
    low_gradient: torch.Tensor = field(init=False)
    high_gradient: torch.Tensor = field(init=False)

    def add_gradients(
        self, rows: torch.Tensor, inner: torch.Tensor, through: torch.Tensor, grads: Sequence[torch.Tensor]
    ) -> None:
        """Add those of one product: rows x (n, in), inner xAᵀ (n, r), and the loss's gradients by both sides of B.

        through: (n, r), by xAᵀ. grads: by the output (n, out), all of it or in equal parts.
        """
        add_gradients([self], rows, [inner], through, [grads])


def add_gradients(
    pairs: Sequence[NarrowPair],
    rows: torch.Tensor,
    inners: Sequence[torch.Tensor],
    through: torch.Tensor,
    grads: Sequence[Sequence[torch.Tensor]],
) -> None:
    """`NarrowPair.add_gradients` of pairs with one input and with A one after the other in memory.

    inners, grads: what it takes, for each pair. through: (n, pairs·r).
    """
    _add_product(stacked([pair.low_gradient for pair in pairs]), through, rows, pairs[0].reached)
    for pair, inner, parts in zip(pairs, inners, grads, strict=True):
        for part, room in zip(parts, pair.high_gradient.chunk(len(parts)), strict=True):
            _add_product(room, part, inner, pair.reached)
        pair.reached = True


def stacked(tensors: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """Matrices of one width that lie one after the other in memory as one, without a copy; else None."""
    first = tensors[0]
    place = first.storage_offset()
    for tensor in tensors:
        follows = tensor.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        if not follows or tensor.storage_offset() != place or tensor.shape[1] != first.shape[1]:
            return None
        place += tensor.numel()
    return first.as_strided(((place - first.storage_offset()) // first.shape[1], first.shape[1]), first.stride())


def _add_product(room: torch.Tensor, left: torch.Tensor, right: torch.Tensor, holds: bool) -> None:
    """leftᵀ·right into ``room``, or onto what it holds."""
    if holds:
        room.addmm_(left.T, right)
    else:
        torch.mm(left.T, right, out=room)


class Joined:
    """Tensors of the shapes of ``like``, all pairs' A and then all pairs' B, one after the other in one, ``whole``."""

    def __init__(self, like: Sequence[torch.Tensor], dtype: torch.dtype) -> None:
        sizes = [tensor.numel() for tensor in like]
        self.whole = torch.zeros(sum(sizes), dtype=dtype, device=like[0].device)
        self.pieces = [piece.view(own.shape) for piece, own in zip(self.whole.split(sizes), like, strict=True)]
        middle = len(like) // 2
        self.downs, self.ups = self.pieces[:middle], self.pieces[middle:]


def _moved_together(weights: Sequence[nn.Parameter]) -> Joined:
    """The weights, from now on one after the other in memory; the same to the bit."""
    joined = Joined(weights, torch.float32)
    for weight, piece in zip(weights, joined.pieces, strict=True):
        weight.data = piece.copy_(weight.data)
    return joined


class NarrowWeights:
    """All of a run's pairs. While they are in use gradients come to the narrow ones.

    What one micro-batch left there goes to ``fresh`` (``widen``), and from there to the trained weights (``collect``).
    accumulates: whether a step has several micro-batches. trained: the trained weights as one tensor, on a CPU; None
    elsewhere, where what is done to a list of tensors is few launches anyway.
    """

    def __init__(self, pairs: Sequence[NarrowPair], *, accumulates: bool) -> None:
        self._pairs, self._accumulates = pairs, accumulates
        self.weights = [pair.down for pair in pairs] + [pair.up for pair in pairs]
        self._narrow = Joined(self.weights, pairs[0].dtype)
        for pair, low, high in zip(pairs, self._narrow.downs, self._narrow.ups, strict=True):
            pair.low, pair.high = low.requires_grad_(), high.requires_grad_()
        # B' = s·B, and ∂/∂B = s·∂/∂B'
        self._scales = [pair.scale for pair in pairs]
        on_cpu = self.weights[0].device.type == "cpu"
        self.trained = _moved_together(self.weights) if on_cpu else None
        # room for one micro-batch's gradients, and with several of them for their sum: before memory is measured
        self._grads = Joined(self.weights, pairs[0].dtype)
        self._fresh = Joined(self.weights, torch.float32)
        self._sums = Joined(self.weights, torch.float32) if accumulates else self._fresh
        for pair, down, up in zip(pairs, self._grads.downs, self._grads.ups, strict=True):
            pair.low_gradient, pair.high_gradient = down, up
        # places of the pairs that the last backward pass reached: a text encoder's last layer it does not
        self._reached: list[int] = []

    @torch.no_grad()
    def renew(self) -> None:
        """Make them of the trained weights as they are now."""
        if self.trained is None:
            torch._foreach_copy_(self._narrow.pieces, self.weights)
        else:
            self._narrow.whole.copy_(self.trained.whole)
        self._scale(self._narrow.ups)

    def _scale(self, ups: list[torch.Tensor]) -> None:
        if any(scale != 1 for scale in self._scales):
            torch._foreach_mul_(ups, self._scales)

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

    @torch.no_grad()
    def widen(self) -> None:
        """Move the gradients that a backward pass left to ``fresh``."""
        self._reached = [place for place, pair in enumerate(self._pairs) if pair.reached]
        for pair in self._pairs:
            if not pair.reached:
                # what an earlier pass may have left
                pair.low_gradient.zero_()
                pair.high_gradient.zero_()
        self._fresh.whole.copy_(self._grads.whole)
        self._scale(self._fresh.ups)
        self.forget()

    def forget(self) -> None:
        """Let go of what a backward pass left."""
        for pair in self._pairs:
            pair.reached = False

    @torch.no_grad()
    def collect(self) -> None:
        """Add the micro-batch's gradients to those of the trained weights; those not reached keep none."""
        if any(weight.grad is not None for weight in self.weights):
            self._sums.whole.add_(self._fresh.whole)
        elif self._accumulates:
            self._sums.whole.copy_(self._fresh.whole)
        for place in self._reached:
            pair = self._pairs[place]
            pair.down.grad, pair.up.grad = self._sums.downs[place], self._sums.ups[place]

    def joined_gradient(self) -> torch.Tensor | None:
        """All gradients of the trained weights as one tensor, (count,) fp32, 0 for those not reached.

        None where the weights' gradients are, in part, not those that ``collect`` gave them.
        """
        given = zip(self.weights, self._sums.pieces, strict=True)
        ours = all(weight.grad is None or weight.grad is piece for weight, piece in given)
        return self._sums.whole if ours else None
