"""Frozen convolutions over few positions as one product of matrices, for a CPU.

There, oneDNN rearranges a convolution's weights before it uses them. Where positions are few and channels many, that
takes longer than the convolution itself: 8×8 positions of 2560 to 1280 channels take 56 ms, the product 21 ms, in bf16
on one core of an EPYC with AVX-512.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

MOST_POSITIONS = 64


class _AsProduct(torch.autograd.Function):
    """A 3×3 convolution of x (N, C, H, W) with stride and padding 1, weight (O, C, 3, 3) and bias (O,) frozen."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(weight)
        ctx.size = x.shape[2:]
        out = weight.flatten(1) @ F.unfold(x, 3, padding=1)
        if bias is not None:
            out += bias[:, None]
        return out.unflatten(2, x.shape[2:])

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        # positions first: the other way round the weights would be turned, and copied for that
        patches = grad.flatten(2).transpose(1, 2) @ weight.flatten(1)
        return F.fold(patches.transpose(1, 2), ctx.size, 3, padding=1), None, None


def use_products(model: nn.Module, dtype: torch.dtype) -> None:
    """Let the frozen 3×3 convolutions of a network be products in ``dtype`` where their positions are few.

    Those whose weights are stored otherwise, and those of another stride or padding, stay as they are.
    """
    for layer in model.modules():
        plain = isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3) and layer.stride == (1, 1)
        if plain and layer.padding == (1, 1) and layer.groups == 1 and _frozen_in(layer, dtype):
            layer.forward = partial(_convolved, layer, layer.forward)


def _frozen_in(layer: nn.Conv2d, dtype: torch.dtype) -> bool:
    return layer.weight.dtype == dtype and not layer.weight.requires_grad


def _convolved(layer: nn.Conv2d, otherwise: Any, x: torch.Tensor) -> torch.Tensor:
    if x.shape[0] * x.shape[2] * x.shape[3] > MOST_POSITIONS:
        return otherwise(x)
    return _AsProduct.apply(x.to(layer.weight.dtype), layer.weight, layer.bias)
