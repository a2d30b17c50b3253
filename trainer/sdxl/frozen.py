"""Frozen layers that compute in another number format than the one in which their weights are stored.

Each weight is widened while it is used and never kept, neither for the backward pass: the base takes no more memory
than its storage.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


class Scratch:
    """Room for one widened tensor at a time, used again by the next: fresh memory costs more than the widening."""

    def __init__(self) -> None:
        self._room: torch.Tensor | None = None

    def widened(self, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """The tensor in ``dtype``; valid until the next call, and the tensor itself where it has that dtype."""
        if tensor.dtype == dtype:
            return tensor
        room = self._room
        if room is None or room.numel() < tensor.numel() or room.dtype != dtype or room.device != tensor.device:
            room = self._room = torch.empty(tensor.numel(), dtype=dtype, device=tensor.device)
        return room[: tensor.numel()].view(tensor.shape).copy_(tensor)


class _Product(torch.autograd.Function):
    """y = xWᵀ + b with W and b frozen. x (…, in), W (out, in)."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, scratch: Scratch
    ) -> torch.Tensor:
        ctx.save_for_backward(weight)
        ctx.scratch = scratch
        return F.linear(x, scratch.widened(weight, x.dtype), None if bias is None else bias.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        return grad @ ctx.scratch.widened(weight, grad.dtype), None, None, None


class _Convolution(torch.autograd.Function):
    """A frozen two-dimensional convolution of x (N, C, H, W); ``how`` are its stride, padding, dilation and groups."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        how: tuple[Any, ...],
        scratch: Scratch,
    ) -> torch.Tensor:
        ctx.save_for_backward(weight)
        ctx.shape, ctx.how, ctx.scratch = x.shape, how, scratch
        return F.conv2d(x, scratch.widened(weight, x.dtype), None if bias is None else bias.to(x.dtype), *how)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        wide = ctx.scratch.widened(weight, grad.dtype)
        return nn.grad.conv2d_input(ctx.shape, wide, grad, *ctx.how), None, None, None, None


def _linear(layer: nn.Linear, dtype: torch.dtype, scratch: Scratch, x: torch.Tensor) -> torch.Tensor:
    return _Product.apply(x.to(dtype), layer.weight, layer.bias, scratch)


def _convolution(layer: nn.Conv2d, dtype: torch.dtype, scratch: Scratch, x: torch.Tensor) -> torch.Tensor:
    how = (layer.stride, layer.padding, layer.dilation, layer.groups)
    return _Convolution.apply(x.to(dtype), layer.weight, layer.bias, how, scratch)


def _embedding(layer: nn.Embedding, dtype: torch.dtype, scratch: Scratch, ids: torch.Tensor) -> torch.Tensor:
    return F.embedding(ids, layer.weight).to(dtype)


_FORWARDS = {nn.Linear: _linear, nn.Conv2d: _convolution, nn.Embedding: _embedding}


def compute_in(model: nn.Module, dtype: torch.dtype) -> None:
    """Let every frozen layer of ``model`` compute in ``dtype``, whatever its weights are stored in.

    Norms, which are small, get weights of that dtype; they are copies, the given tensors stay as they are. Layers that
    are trained, or stored in ``dtype`` already, are left alone. Zero padding only, as in SDXL.
    """
    scratch = Scratch()
    for layer in model.modules():
        own = list(layer.parameters(recurse=False))
        if not own or all(weight.dtype == dtype or weight.requires_grad for weight in own):
            continue
        if forward := _FORWARDS.get(type(layer)):
            layer.forward = partial(forward, layer, dtype, scratch)
        elif isinstance(layer, nn.LayerNorm | nn.GroupNorm):
            layer.to(dtype)


def store_in_fp8(layer: nn.Linear | nn.Conv2d, dtype: torch.dtype, scratch: Scratch, device: torch.device) -> None:
    """Keep a frozen layer's weight on the device in float8_e4m3fn, half the size of bf16, and compute in ``dtype``.

    The tensor given stays as it is; the layer gets a rounded copy. Three bits of mantissa are left, so a weight is off
    by up to 6 % of itself.
    """
    layer.weight = nn.Parameter(layer.weight.detach().to(device).to(torch.float8_e4m3fn), requires_grad=False)
    layer.forward = partial(_FORWARDS[type(layer)], layer, dtype, scratch)
