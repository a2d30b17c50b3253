"""What frozen layers make of texts that come again, kept: many trainings have one caption, or a few, for all steps."""

from __future__ import annotations

import torch

from .fused import FusedLora

# the keys and values of five captions of 77 tokens, for all of SDXL's attentions in bf16
MOST_BYTES = 2**27

Products = dict[FusedLora, torch.Tensor]


class KeptTexts:
    """What frozen layers made of the first texts that they saw, up to ``most_bytes`` with the texts.

    Only of texts that are a batch by themselves: what a product comes to depends, in its last bits, on the number of
    rows, and a run that goes on from a state must not see another than one that was never interrupted. A text is known
    by its values, not by where they come from.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most = self._room = most_bytes
        self._seen: list[tuple[torch.Tensor, Products]] = []
        # all attentions of a step ask for the same
        self._last: tuple[torch.Tensor, int, Products | None] | None = None

    def keep(self, wanted: bool) -> None:
        """Let go of everything, and from here on keep what comes, or nothing."""
        self._room = self._most if wanted else 0
        self._seen.clear()
        self._last = None

    def of(self, context: torch.Tensor) -> Products | None:
        """Where the products of a context (N, S, D) are kept; None where none are."""
        if len(context) != 1 or context.requires_grad:
            return None
        if self._last is None or self._last[0] is not context or self._last[1] != context._version:
            self._last = context, context._version, self._found(context)
        return self._last[2]

    def forward_rows(
        self, products: Products | None, layer: FusedLora, rows: torch.Tensor, inner: torch.Tensor
    ) -> torch.Tensor:
        """`FusedLora.forward_rows`; without the adapter it is computed where it is not in ``products``."""
        if products is None:
            return layer.forward_rows(rows, inner)
        if (kept := products.get(layer)) is None:
            kept = layer.base_rows(rows)
            if self._takes(kept):
                products[layer] = kept
        return torch.addmm(kept, inner, layer.narrow.high.T)

    def _takes(self, tensor: torch.Tensor) -> bool:
        """Whether there is room for it, which is then taken."""
        if tensor.nbytes > self._room:
            return False
        self._room -= tensor.nbytes
        return True

    def _found(self, text: torch.Tensor) -> Products | None:
        for seen, products in self._seen:
            if seen.dtype == text.dtype and torch.equal(seen, text):
                return products
        if not self._takes(text):
            return None
        self._seen.append((text.clone(), {}))
        return self._seen[-1][1]
