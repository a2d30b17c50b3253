"""What frozen layers make of texts that come again, kept: many trainings have one caption, or a few, for all steps."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .fused import FusedLora

# the keys and values of five captions of 77 tokens, for all of SDXL's attentions in bf16
MOST_BYTES = 2**27

Products = dict[FusedLora, torch.Tensor]


class Texts:
    """The texts of one batch, and what is kept of each."""

    def __init__(self, keeper: KeptTexts, products: Sequence[Products]) -> None:
        self._keeper, self._products = keeper, products

    def base_rows(self, layer: FusedLora, rows: torch.Tensor) -> torch.Tensor:
        """`FusedLora.base_rows` of the texts' rows (N·S, in), computed where a text is new; not to be changed."""
        kept = [products[layer] for products in self._products if layer in products]
        if len(kept) == len(self._products):
            return kept[0] if len(kept) == 1 else torch.cat(kept)
        made = layer.base_rows(rows)
        for products, own in zip(self._products, made.chunk(len(self._products)), strict=True):
            if layer not in products and self._keeper.takes(own):
                products[layer] = own.clone()
        return made


class KeptTexts:
    """What frozen layers made of the first texts that they saw, up to ``most_bytes`` with the texts.

    A text is known by its values, not by where they come from: what is kept is, to the bit, what would be made of it.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._room = most_bytes
        self._seen: list[tuple[torch.Tensor, Products]] = []
        # all attentions of a step ask for the same
        self._last: tuple[torch.Tensor, int, Texts] | None = None

    def of(self, context: torch.Tensor) -> Texts:
        """Those of the context (N, S, D), which has no gradient."""
        if self._last is None or self._last[0] is not context or self._last[1] != context._version:
            self._last = context, context._version, Texts(self, [self._found(text) for text in context])
        return self._last[2]

    def takes(self, tensor: torch.Tensor) -> bool:
        """Whether there is room for it, which is then taken."""
        if tensor.nbytes > self._room:
            return False
        self._room -= tensor.nbytes
        return True

    def _found(self, text: torch.Tensor) -> Products:
        for seen, products in self._seen:
            if seen.dtype == text.dtype and torch.equal(seen, text):
                return products
        products: Products = {}
        if self.takes(text):
            self._seen.append((text.clone(), products))
        else:
            # nor for what would be kept of it and never found again
            self._room = 0
        return products
