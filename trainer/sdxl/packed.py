"""A frozen base in few bits: weights are packed once and widened only while a layer computes.

fp8 has three bits of mantissa, int8 a scale for each output (LLM.int8, Dettmers et al., 2022), nf4 sixteen levels in
blocks of 64 (QLoRA, Dettmers et al., 2023; bitsandbytes' kernels). Neither pass keeps a widened weight.
"""

from __future__ import annotations

import importlib.util
import re
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ..errors import SettingsError

# what the whole network hangs on, and small
KEPT = re.compile(r"(conv_in|conv_out|time_embedding|add_embedding)(\.|$)")


def check_storage(storage: str) -> None:
    """Raises SettingsError: the package that a storage needs is not installed."""
    if storage == "nf4" and importlib.util.find_spec("bitsandbytes") is None:
        raise SettingsError(
            "base_storage nf4 needs bitsandbytes, which is not installed; install it with "
            "'python -m pip install bitsandbytes' or choose int8."
        )


def pack_unet(unet: nn.Module, storage: str, dtype: torch.dtype, device: torch.device) -> None:
    """Pack every frozen linear layer and convolution of the U-Net that is not packed yet, ``KEPT`` left out."""
    for name, layer in unet.named_modules():
        if type(layer) in _PACKED and not KEPT.match(name) and _is_wide(layer.weight):
            pack(layer, storage, dtype, device)


def _is_wide(weight: torch.Tensor) -> bool:
    return not weight.requires_grad and weight.dtype != torch.float8_e4m3fn


def pack(layer: nn.Linear | nn.Conv2d, storage: str, dtype: torch.dtype, device: torch.device) -> None:
    """Let a frozen layer hold its weight packed on the device and compute in ``dtype``. The tensor given stays as it
    is."""
    weight = layer.weight.detach().to(device)
    del layer._parameters["weight"]
    layer.storage, layer.compute, layer.shape = storage, dtype, weight.shape
    for name, tensor in _pack(weight, storage).items():
        # so that it moves with the layer
        layer.register_buffer(name, tensor, persistent=False)
    layer.__class__ = _PACKED[type(layer)]


def _pack(weight: torch.Tensor, storage: str) -> dict[str, torch.Tensor]:
    if storage == "fp8":
        return {"packed": weight.to(torch.float8_e4m3fn)}
    rows = weight.float().flatten(1)
    if storage == "int8":
        scale = rows.abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / 127
        return {"packed": (rows / scale).round().to(torch.int8), "scale": scale}
    from bitsandbytes.functional import quantize_4bit

    packed, state = quantize_4bit(rows.contiguous(), blocksize=64, quant_type="nf4")
    return {"packed": packed, "scale": state.absmax, "code": state.code}


def _widened(layer: Any) -> torch.Tensor:
    """The weight as it is computed with."""
    if layer.storage == "fp8":
        return layer.packed.to(layer.compute)
    if layer.storage == "int8":
        return (layer.packed * layer.scale).to(layer.compute).view(layer.shape)
    from bitsandbytes.functional import QuantState, dequantize_4bit

    flat = (layer.shape[0], layer.shape[1:].numel())
    state = QuantState(layer.scale, torch.Size(flat), layer.code, 64, "nf4", layer.compute)
    return dequantize_4bit(layer.packed, state).view(layer.shape)


class _Product(torch.autograd.Function):
    """y = xWᵀ + b, W packed in ``layer``. x (…, in)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: Any) -> torch.Tensor:
        ctx.layer = layer
        return F.linear(x, _widened(layer), None if layer.bias is None else layer.bias.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grad @ _widened(ctx.layer).to(grad.dtype), None


class _Convolution(torch.autograd.Function):
    """A convolution of x (N, C, H, W) whose weight is packed in ``layer``."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: Any) -> torch.Tensor:
        ctx.layer, ctx.shape = layer, x.shape
        bias = None if layer.bias is None else layer.bias.to(x.dtype)
        return F.conv2d(x, _widened(layer), bias, *_how(layer))

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        wide = _widened(ctx.layer).to(grad.dtype)
        return nn.grad.conv2d_input(ctx.shape, wide, grad, *_how(ctx.layer)), None


def _how(layer: nn.Conv2d) -> tuple[Any, ...]:
    return layer.stride, layer.padding, layer.dilation, layer.groups


class PackedLinear(nn.Linear):
    """A linear layer after ``pack``; ``weight`` is made anew at every look."""

    @property
    def weight(self) -> torch.Tensor:
        return _widened(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _Product.apply(x.to(self.compute), self)


class PackedConv2d(nn.Conv2d):
    """A convolution after ``pack``, with zero padding only, as in SDXL."""

    @property
    def weight(self) -> torch.Tensor:
        return _widened(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _Convolution.apply(x.to(self.compute), self)


_PACKED = {nn.Linear: PackedLinear, nn.Conv2d: PackedConv2d}
