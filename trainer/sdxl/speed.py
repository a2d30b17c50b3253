"""How much arithmetic a step is at least, and how fast the device could do it at best."""

from __future__ import annotations

import functools
import json
import time

import torch
from diffusers import UNet2DConditionModel
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from .parts import TOKENS, Parts

# a square product of this side is large enough to keep a device busy, and over in a moment
_SIDE = {"cpu": 1024, "cuda": 4096}
_TRIES = 3


def product_speed(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of one large product of matrices on the device, the best of a few."""
    side = _SIDE.get(device.type, 4096)
    left = torch.ones(side, side, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(_TRIES):
        _wait(device)
        began = time.perf_counter()
        left @ left
        _wait(device)
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def floor_flops(parts: Parts, latents: torch.Size, *, with_text: bool) -> int:
    """Floating-point operations of one forward and one backward pass through the frozen base, without adapters.

    The backward pass is that to the inputs alone, for no weight of the base gets a gradient; nothing is computed
    twice. latents: (N, 4, h, w). with_text: the text encoders are trained, so they are passed through as well.
    """
    flops = _unet_flops(json.dumps(dict(parts.unet.config), default=str), tuple(latents))
    text = sum(_linear_weights(encoder) for encoder in (parts.te1, parts.te2)) if with_text else 0
    # two operations for each weight and token, forwards and backwards
    return flops + 4 * text * TOKENS * latents[0]


@functools.cache
def _unet_flops(config: str, latents: tuple[int, ...]) -> int:
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(json.loads(config)).requires_grad_(False)
        pooled = unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
        extra = {"text_embeds": torch.empty(latents[0], pooled), "time_ids": torch.empty(latents[0], 6)}
        context = torch.empty(latents[0], TOKENS, unet.config.cross_attention_dim, requires_grad=True)
        with FlopCounterMode(display=False) as counter:
            out = unet(torch.empty(latents), torch.empty(()), encoder_hidden_states=context, added_cond_kwargs=extra)[0]
            out.sum().backward()
    return int(counter.get_total_flops())


def _linear_weights(model: nn.Module) -> int:
    return sum(layer.weight.numel() for layer in model.modules() if type(layer) is nn.Linear)


def speed_line(flops: float, seconds: float, device: torch.device, dtype: torch.dtype) -> str:
    """What a step of at least ``flops`` floating-point operations in ``seconds`` means on this device."""
    peak = product_speed(device, dtype)
    return (
        f"A step is {flops / 1e12:.3g} TFLOP at least, done at {flops / seconds / 1e12:.3g} TFLOP/s; a large product "
        f"alone reaches {peak / 1e12:.3g} TFLOP/s here, so {flops / peak:.3g} s a step is the floor."
    )
