"""Weights that are stored narrower than a CPU computes: widened once a sampling instead of at every step.

With --bf16-unet ComfyUI stores a U-Net in bf16 and, on a CPU, computes in fp32: each layer widens its weights whenever
it is used, which of a step of SDXL at 256 pixels is a quarter (benchmarks/RESULTS.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import comfy.model_base
import comfy.model_management
import torch
from torch import nn

# what sampling itself needs, and the host's other models
_SPARE = 4 * 2**30
# by the memory that is free the host chooses how many queries at once look at all keys; this is its largest number
_QUERIES = 4096


@contextmanager
def widened(guider: Any, steps: int, latents: torch.Size) -> Iterator[None]:
    """Let the layers of a host's guider, whose weights are in their place, hold them as they compute with them.

    They are the very numbers that each layer would make itself, so that no bit of an image changes. Afterwards the
    layers have their own again. As many are widened as memory is free for; on a GPU, which computes in what it stores,
    and for a single step, none. latents: their shape, (N, 4, h, w).
    """
    held: list[tuple[nn.Module, nn.Parameter, nn.Parameter]] = []
    try:
        patcher = guider.model_patcher
        # hooks exchange weights in the middle of a sampling
        if steps > 1 and patcher.load_device.type == "cpu" and not getattr(patcher, "hook_patches", None):
            _widen(guider.inner_model, latents, held)
        yield
    finally:
        for layer, own, wide in held:
            if layer.weight is wide:
                layer.weight = own


def _widen(model: Any, latents: torch.Size, held: list[tuple[nn.Module, nn.Parameter, nn.Parameter]]) -> None:
    if not isinstance(model, comfy.model_base.SDXL):
        return
    dtype = model.get_dtype_inference()
    spare = max(_SPARE, _attention_bytes(model, latents))
    room = comfy.model_management.get_free_memory(torch.device("cpu")) - spare
    for layer in model.diffusion_model.modules():
        if not _widens_itself(layer, dtype):
            continue
        own = layer.weight
        room -= own.numel() * dtype.itemsize
        if room < 0:
            return
        wide = nn.Parameter(own.to(dtype), requires_grad=False)
        # noted first: whatever ends this must find it
        held.append((layer, own, wide))
        layer.weight = wide


def _attention_bytes(model: Any, latents: torch.Size) -> int:
    """Memory below which the host's attention goes through fewer queries at once, and so rounds otherwise.

    comfy.ldm.modules.attention, attention_sub_quad: four times what the products of all queries and keys take.
    """
    unet = model.model_config.unet_config
    heads = 2 * unet["model_channels"] // unet["num_head_channels"]
    tokens = -(-latents[-2] // 2) * -(-latents[-1] // 2)
    # with and without guidance at once
    return 2 * latents[0] * heads * _QUERIES * tokens * 4 * 4


def _widens_itself(layer: nn.Module, dtype: torch.dtype) -> bool:
    """Whether one of the host's layers does so at every use, and does nothing else to its weights there."""
    weight = getattr(layer, "weight", None)
    if not getattr(layer, "comfy_cast_weights", False) or getattr(layer, "weight_function", None):
        return False
    # by their types: the host's quantized weights are tensors too; _v: weights that the host keeps on the disk
    if type(weight) is not nn.Parameter or type(weight.data) is not torch.Tensor or hasattr(layer, "_v"):
        return False
    narrow = weight.is_floating_point() and weight.dtype.itemsize < dtype.itemsize
    return narrow and weight.device.type == "cpu"
