"""LoRA on a frozen linear layer as one autograd function.

peft's layer does the same in seven recorded operations with a temporary for each; SDXL has 722 such layers, and at
one image of 256×256 most of them are so small that the recording costs as much as the products. Adapters stay peft's:
its parameters, its switches, its names.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import nn
from torch.nn import functional as F

from .frozen import Scratch


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
    ) -> torch.Tensor:
        rows = x.reshape(-1, x.shape[-1]).to(dtype)
        low, high = down.to(dtype), up.to(dtype)
        inner = rows @ low.T
        out = F.linear(rows, scratch.widened(weight, dtype), None if bias is None else bias.to(dtype))
        out.addmm_(inner, high.T, alpha=scale)
        ctx.save_for_backward(rows, weight, low, high, inner)
        ctx.scale, ctx.shape, ctx.dtype, ctx.scratch = scale, x.shape, x.dtype, scratch
        return out.view(*x.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, weight, low, high, inner = ctx.saved_tensors
        grad = grad.reshape(-1, grad.shape[-1])
        through = (grad @ high).mul_(ctx.scale)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = grad @ ctx.scratch.widened(weight, grad.dtype)
            grad_x.addmm_(through, low)
            grad_x = grad_x.view(ctx.shape).to(ctx.dtype)
        grad_down = (through.T @ rows).float()
        grad_up = (grad.T @ inner).float().mul_(ctx.scale)
        return grad_x, None, None, grad_down, grad_up, None, None, None


def fuse(layer: nn.Module, adapter: str, dtype: torch.dtype, scratch: Scratch) -> bool:
    """Let a plain LoRA layer of peft compute through one function in ``dtype``; False where it is of another kind.

    The arithmetic is peft's under autocast to ``dtype``; the adapter's own gradients come in fp32.
    """
    plain = type(layer) is LoraLinear and isinstance(layer.get_base_layer(), nn.Linear)
    if not plain or layer.use_dora[adapter] or not isinstance(layer.lora_dropout[adapter], nn.Identity):
        return False
    base, down, up = layer.get_base_layer(), layer.lora_A[adapter], layer.lora_B[adapter]
    scale = float(layer.scaling[adapter])

    def forward(x: torch.Tensor) -> torch.Tensor:
        if layer.disable_adapters:
            return base(x)
        return _LoraProduct.apply(x, base.weight, base.bias, down.weight, up.weight, scale, dtype, scratch)

    layer.forward = forward
    return True
