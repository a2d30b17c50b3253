"""LoRA on a frozen linear layer as one autograd function, and with the gate of a feed-forward as another.

peft's layer does the same in seven recorded operations with a temporary for each; SDXL has 722 such layers, and at
one image of 256×256 most of them are so small that the recording costs as much as the products. Adapters stay peft's:
its parameters, its switches, its names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.models.activations import GEGLU
from peft.tuners.lora import Linear as LoraLinear
from torch import nn
from torch.nn import functional as F

from ..sdxl.frozen import Scratch
from .narrow import NarrowPair, add_gradients, stacked

Gradients = tuple[torch.Tensor | None, ...]


def _begin(
    ctx: Any,
    x: torch.Tensor,
    down: torch.Tensor,
    up: torch.Tensor,
    scale: float,
    dtype: torch.dtype,
    scratch: Scratch,
    pair: NarrowPair | None,
) -> tuple[torch.Tensor, ...]:
    """x as rows, A and B in ``dtype``, and xAᵀ; what the backward pass must know beside tensors is noted."""
    ctx.scale, ctx.shape, ctx.dtype, ctx.trained, ctx.scratch = scale, x.shape, x.dtype, down.dtype, scratch
    ctx.pair = pair
    rows = x.reshape(-1, x.shape[-1]).to(dtype)
    low, high = down.to(dtype), up.to(dtype)
    return rows, low, high, rows @ low.T


def _adapters_gradients(
    ctx: Any, rows: torch.Tensor, inner: torch.Tensor, through: torch.Tensor, grads: Sequence[torch.Tensor]
) -> Gradients:
    """The loss's gradients by A and B, or None twice where they have gone to the narrow pair's room.

    rows: x (n, in). inner: xAᵀ (n, r). through: (n, r), by xAᵀ. grads: by the output, in equal parts of its columns.
    """
    if ctx.pair is not None:
        ctx.pair.add_gradients(rows, inner, through, grads)
        return None, None
    parts = [(grad.T @ inner).to(ctx.trained) for grad in grads]
    return (through.T @ rows).to(ctx.trained), _scaled(torch.cat(parts) if len(parts) > 1 else parts[0], ctx.scale)


class _LoraProduct(torch.autograd.Function):
    """y = xWᵀ + b + s·(xAᵀ)Bᵀ with W and b frozen. x (…, in), W (out, in), A (r, in), B (out, r)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        down: torch.Tensor,
        up: torch.Tensor,
        scale: float,
        dtype: torch.dtype,
        scratch: Scratch,
        pair: NarrowPair | None,
    ) -> torch.Tensor:
        rows, low, high, inner = _begin(ctx, x, down, up, scale, dtype, scratch, pair)
        out = F.linear(rows, scratch.widened(weight, dtype), None if bias is None else bias.to(dtype))
        out.addmm_(inner, high.T, alpha=scale)
        ctx.save_for_backward(rows, weight, low, high, inner)
        return out.view(*x.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Gradients:
        rows, weight, low, high, inner = ctx.saved_tensors
        grad = grad.reshape(-1, grad.shape[-1])
        through = _scaled(grad @ high, ctx.scale)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = grad @ ctx.scratch.widened(weight, grad.dtype)
            grad_x.addmm_(through, low)
            grad_x = grad_x.view(ctx.shape).to(ctx.dtype)
        return grad_x, None, None, *_adapters_gradients(ctx, rows, inner, through, [grad]), None, None, None, None


class _GatedProduct(torch.autograd.Function):
    """h·gelu(g) of the two halves (h, g) of `_LoraProduct`'s y (GEGLU; Shazeer, 2020).

    Each half is a product of its own, so that nothing is cut, and put together again, in strides; gelu(g) is computed
    again in the backward pass and not kept, an eighth of what a transformer block of SDXL keeps.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        down: torch.Tensor,
        up: torch.Tensor,
        scale: float,
        dtype: torch.dtype,
        scratch: Scratch,
        pair: NarrowPair | None,
    ) -> torch.Tensor:
        rows, low, high, inner = _begin(ctx, x, down, up, scale, dtype, scratch, pair)
        wide = scratch.widened(weight, dtype).chunk(2)
        offsets = (None, None) if bias is None else bias.to(dtype).chunk(2)
        hidden, gate = (F.linear(rows, half, offset) for half, offset in zip(wide, offsets, strict=True))
        for half, part in zip((hidden, gate), high.chunk(2), strict=True):
            half.addmm_(inner, part.T, alpha=scale)
        ctx.save_for_backward(rows, weight, low, high, inner, hidden, gate)
        return F.gelu(gate).mul_(hidden).view(*x.shape[:-1], hidden.shape[-1])

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Gradients:
        rows, weight, low, high, inner, hidden, gate = ctx.saved_tensors
        grad = grad.reshape(-1, grad.shape[-1])
        halves = F.gelu(gate).mul_(grad), torch.ops.aten.gelu_backward(grad * hidden, gate)
        first, second = high.chunk(2)
        through = _scaled((halves[0] @ first).addmm_(halves[1], second), ctx.scale)
        grad_x = None
        if ctx.needs_input_grad[0]:
            first, second = ctx.scratch.widened(weight, grad.dtype).chunk(2)
            grad_x = (halves[0] @ first).addmm_(halves[1], second).addmm_(through, low)
            grad_x = grad_x.view(ctx.shape).to(ctx.dtype)
        return grad_x, None, None, *_adapters_gradients(ctx, rows, inner, through, halves), None, None, None, None


def _scaled(tensor: torch.Tensor, scale: float) -> torch.Tensor:
    return tensor if scale == 1 else tensor.mul_(scale)


class FusedLora:
    """A plain LoRA layer of peft that computes through one function, in ``dtype``.

    The arithmetic is peft's under autocast; the adapter's own gradients come in fp32, or, while the narrow weights are
    in use, to the room of those.
    """

    def __init__(self, layer: Any, adapter: str, dtype: torch.dtype, scratch: Scratch) -> None:
        self._layer, self._dtype, self._scratch = layer, dtype, scratch
        self._base, self._down, self._up = layer.get_base_layer(), layer.lora_A[adapter], layer.lora_B[adapter]
        self._scale = float(layer.scaling[adapter])
        # in fp32 nothing is narrow
        wide = dtype == torch.float32
        self.narrow = None if wide else NarrowPair(self._down.weight, self._up.weight, self._scale, dtype)

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """The layer's output: x (…, in) to (…, out)."""
        return self._base(x) if self._layer.disable_adapters else _LoraProduct.apply(x, *self._given())

    def gated(self, x: torch.Tensor) -> torch.Tensor:
        """The output of the GEGLU around the layer: x (…, in) to (…, out / 2)."""
        if self._layer.disable_adapters:
            hidden, gate = self._base(x).chunk(2, dim=-1)
            return hidden * F.gelu(gate)
        return _GatedProduct.apply(x, *self._given())

    @property
    def uses_narrow(self) -> bool:
        """Whether the layer computes with its narrow weights."""
        return self.narrow is not None and self.narrow.in_use and not self._layer.disable_adapters

    def rows(self, x: torch.Tensor) -> torch.Tensor:
        """x (…, in) as rows (n, in) in the number format of the products."""
        return x.reshape(-1, x.shape[-1]).to(self._dtype)

    def forward_rows(self, rows: torch.Tensor, inner: torch.Tensor) -> torch.Tensor:
        """xWᵀ + b + (xAᵀ)Bᵀ with the narrow weights: x (n, in) and xAᵀ (n, r) to (n, out)."""
        return self.base_rows(rows).addmm_(inner, self.narrow.high.T)

    def base_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """xWᵀ + b, without the adapter: x (n, in) to (n, out)."""
        bias = None if self._base.bias is None else self._base.bias.to(self._dtype)
        return F.linear(rows, self._wide_weight(), bias)

    def _wide_weight(self) -> torch.Tensor:
        return self._scratch.widened(self._base.weight, self._dtype)

    def _given(self) -> tuple[object, ...]:
        frozen, how = (self._base.weight, self._base.bias), (self._dtype, self._scratch)
        if self.narrow is not None and self.narrow.in_use:
            return *frozen, self.narrow.low, self.narrow.high, 1.0, *how, self.narrow
        return *frozen, self._down.weight, self._up.weight, self._scale, *how, None


def backward_rows(
    layers: Sequence[FusedLora],
    rows: torch.Tensor,
    inners: Sequence[torch.Tensor],
    grads: Sequence[torch.Tensor],
    *,
    wanted: bool = True,
) -> torch.Tensor | None:
    """The way back through layers with one input and narrow weights whose A follow one another in memory.

    rows: x (n, in). inners, grads: of each layer xAᵀ (n, r) and the loss's gradient by its output, (n, out). Leaves
    the adapters' gradients in their rooms and returns that by x, or None where it is not wanted.
    """
    pairs = [layer.narrow for layer in layers]
    parts = [grad @ pair.high for grad, pair in zip(grads, pairs, strict=True)]
    through = torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
    add_gradients(pairs, rows, inners, through, [[grad] for grad in grads])
    if not wanted:
        return None
    by_rows = grads[0] @ layers[0]._wide_weight()
    for layer, grad in zip(layers[1:], grads[1:], strict=True):
        by_rows.addmm_(grad, layer._wide_weight())
    return by_rows.addmm_(through, stacked([pair.low for pair in pairs]))


def fuse(layer: nn.Module, adapter: str, dtype: torch.dtype, scratch: Scratch) -> FusedLora | None:
    """Let a plain LoRA layer compute through one function; None where it is of another kind."""
    plain = type(layer) is LoraLinear and isinstance(layer.get_base_layer(), nn.Linear)
    if not plain or layer.use_dora[adapter] or not isinstance(layer.lora_dropout[adapter], nn.Identity):
        return None
    layer.fused = FusedLora(layer, adapter, dtype, scratch)
    layer.forward = layer.fused.product
    return layer.fused


def fuse_gates(model: nn.Module) -> None:
    """Let every GEGLU whose layer is fused be one function with it, where nothing looks at the layer's own output."""
    for module in model.modules():
        if not isinstance(module, GEGLU) or module.proj._forward_hooks:
            continue
        if (fused := getattr(module.proj, "fused", None)) is not None:
            module.forward = fused.gated
