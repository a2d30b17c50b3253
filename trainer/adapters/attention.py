"""An attention with LoRA on its four layers as one autograd function, for a CPU.

Layer by layer it is some sixty recorded operations, most of them on tensors so small that recording them, and starting
each product, costs as much as the arithmetic. Here the layers with one input share the product with A, and nothing is
recorded but the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from torch import nn

from ..sdxl.attention import MOST_SCORES, DirectAttention
from .fused import FusedLora, backward_rows
from .narrow import stacked
from .texts import KeptTexts


@dataclass(frozen=True)
class _Layers:
    """The four layers of one attention with ``heads`` heads, all of them computing with their narrow weights.

    shared: those whose input is the context, all three of self-attention. low: their A, one after the other.
    """

    query: FusedLora
    key: FusedLora
    value: FusedLora
    out: FusedLora
    heads: int
    shared: Sequence[FusedLora]
    low: torch.Tensor

    def split(self, rows: torch.Tensor, batch: int) -> torch.Tensor:
        """Rows (N·L, C) to heads (N·heads, L, d), one after the other, as products want them."""
        heads = rows.view(batch, -1, self.heads, rows.shape[-1] // self.heads).transpose(1, 2)
        return heads.contiguous().flatten(0, 1)

    def joined(self, heads: torch.Tensor) -> torch.Tensor:
        """Heads (N·heads, L, d) to rows (N·L, C)."""
        return heads.unflatten(0, (-1, self.heads)).transpose(1, 2).flatten(2).flatten(0, 1)


def _product(left: torch.Tensor, right: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """scale·left·right of (B, m, k) and (B, k, n)."""
    # a factor costs nothing within the product, and is an operation of its own beside it
    room = left.new_empty(*left.shape[:2], right.shape[2])
    return torch.baddbmm(room, left, right, beta=0, alpha=scale, out=room)


class _LoraAttention(torch.autograd.Function):
    """softmax(QKᵀ/√d)V through its last layer: x (N, L, C), context (N, S, D), or None for x, to (N, L, C).

    anchor: any tensor with a gradient, so that the function is recorded; the adapters' gradients go to their rooms.
    forward_rows: `FusedLora.forward_rows` of a layer whose input is the context.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        context: torch.Tensor | None,
        anchor: torch.Tensor,
        layers: _Layers,
        forward_rows: Callable[[FusedLora, torch.Tensor, torch.Tensor], torch.Tensor],
    ) -> torch.Tensor:
        query, out, own = layers.query, layers.out, context is None
        rows = query.rows(x)
        source = rows if context is None else query.rows(context)
        ranks = [len(each.narrow.low) for each in layers.shared]
        inners = list((source @ layers.low.T).split(ranks, dim=1))
        if not own:
            inners.insert(0, rows @ query.narrow.low.T)
        given = zip((layers.key, layers.value), inners[1:], strict=True)
        projected = query.forward_rows(rows, inners[0]), *(forward_rows(each, source, inner) for each, inner in given)
        queries, keys, values = (layers.split(each, len(x)) for each in projected)
        weights = _product(queries, keys.mT, queries.shape[-1] ** -0.5).softmax(dim=-1)
        mixed = layers.joined(_product(weights, values))
        inner = mixed @ out.narrow.low.T
        ctx.layers, ctx.x = layers, (x.shape, x.dtype)
        ctx.context = None if context is None else (context.shape, context.dtype)
        ctx.save_for_backward(rows, source, *inners, queries, keys, values, weights, mixed, inner)
        return out.forward_rows(mixed, inner).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, source, *inners, queries, keys, values, weights, mixed, inner = ctx.saved_tensors
        layers: _Layers = ctx.layers
        grad = grad.reshape(-1, grad.shape[-1])
        by_mixed = layers.split(backward_rows([layers.out], mixed, [inner], [grad]), ctx.x[0][0])
        grads = [layers.joined(each) for each in _gradients(by_mixed, queries, keys, values, weights)]
        wants_x, wants_context = ctx.needs_input_grad[:2]
        if ctx.context is None:
            by_x = backward_rows(layers.shared, rows, inners, grads, wanted=wants_x)
            return _as(by_x, ctx.x), None, None, None, None
        by_x = backward_rows([layers.query], rows, inners[:1], grads[:1], wanted=wants_x)
        by_context = backward_rows(layers.shared, source, inners[1:], grads[1:], wanted=wants_context)
        return _as(by_x, ctx.x), _as(by_context, ctx.context), None, None, None


def _as(rows: torch.Tensor | None, given: tuple[torch.Size, torch.dtype]) -> torch.Tensor | None:
    return None if rows is None else rows.view(given[0]).to(given[1])


def _gradients(
    grad: torch.Tensor, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Those by queries, keys and values (N·heads, L or S, d) from that by softmax(QKᵀ/√d)V; weights: the softmax."""
    by_weights, scale = _product(grad, values.mT), queries.shape[-1] ** -0.5
    by_scores = torch._softmax_backward_data(by_weights, weights, -1, weights.dtype)
    by_queries, by_keys = _product(by_scores, keys, scale), _product(by_scores.mT, queries, scale)
    return by_queries, by_keys, _product(weights.mT, grad)


class LoraAttention(DirectAttention):
    """`DirectAttention` that is one function where its layers are computed with narrow weights.

    texts: what is kept of contexts that come again, for all attentions that share this.
    """

    def __init__(self, texts: KeptTexts) -> None:
        self._texts = texts

    def attended(self, attn: Attention, hidden_states: torch.Tensor, other: torch.Tensor | None) -> torch.Tensor:
        """As the other: hidden_states (N, L, C); other (N, S, D), or None for self-attention. Returns (N, L, C)."""
        length = hidden_states.shape[-2] if other is None else other.shape[-2]
        layers = None
        if torch.is_grad_enabled() and hidden_states.shape[-2] * length <= MOST_SCORES:
            layers = _layers_of(attn, own=other is None)
        if layers is None:
            return super().attended(attn, hidden_states, other)
        products = None if other is None else self._texts.of(other)
        forward_rows = partial(self._texts.forward_rows, products)
        return _LoraAttention.apply(hidden_states, other, layers.query.narrow.low, layers, forward_rows)


def _layers_of(attn: Attention, *, own: bool) -> _Layers | None:
    """None where a layer has no adapter, computes otherwise, or where something looks at its output."""
    given = attn.to_q, attn.to_k, attn.to_v, attn.to_out[0]
    fused = [getattr(layer, "fused", None) for layer in given]
    if any(each is None or not each.uses_narrow for each in fused) or any(map(_is_looked_at, given)):
        return None
    shared = fused[:3] if own else fused[1:3]
    low = stacked([each.narrow.low for each in shared])
    return None if low is None else _Layers(*fused, heads=attn.heads, shared=shared, low=low)


def _is_looked_at(layer: nn.Module) -> bool:
    return any((layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks))
