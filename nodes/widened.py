"""Weights that are stored narrower than a CPU computes: widened once a sampling instead of at every step.

With --bf16-unet ComfyUI stores a U-Net in bf16 and, on a CPU, computes in fp32: each layer widens its weights whenever
it is used, which of a step of SDXL at 256 pixels is a quarter (benchmarks/RESULTS.md).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import comfy.model_base
import comfy.model_management
import torch
from torch import nn

from ..trainer.shortage import is_out_of_memory

# what activations take, and the host's other models
_SPARE = 4 * 2**30
# by the memory that is free the host chooses how many queries at once look at all keys; this is its largest number
_QUERIES = 4096
_CONTAINER = Path("/sys/fs/cgroup")
Held = list[tuple[nn.Module, nn.Parameter, nn.Parameter]]


@contextmanager
def widened(guider: Any, steps: int, latents: torch.Size) -> Iterator[None]:
    """Let the layers of a host's guider, whose weights are in their place, hold them as they compute with them.

    They are the very numbers that each layer would make itself, so that no bit of an image changes. Afterwards the
    layers have their own again. As many are widened as memory is free for; on a GPU, which computes in what it stores,
    and for a single step, none. latents: their shape, (N, 4, h, w).
    """
    held: Held = []
    try:
        patcher = guider.model_patcher
        # hooks exchange weights in the middle of a sampling
        if steps > 1 and patcher.load_device.type == "cpu" and not getattr(patcher, "hook_patches", None):
            _widen(guider, latents, held)
        yield
    finally:
        # emptied: the frames of an error outlive it, with everything that they name
        while held:
            _give_back(*held.pop())


def _give_back(layer: nn.Module, own: nn.Parameter, wide: nn.Parameter) -> None:
    if layer.weight is wide:
        layer.weight = own


def _widen(guider: Any, latents: torch.Size, held: Held) -> None:
    model = guider.inner_model
    if not isinstance(model, comfy.model_base.SDXL):
        return
    dtype = model.get_dtype_inference()
    room = _free_bytes() - reserve(model, sum(map(len, guider.conds.values())), latents)
    for layer in model.diffusion_model.modules():
        if not _widens_itself(layer, dtype):
            continue
        room -= layer.weight.numel() * dtype.itemsize
        if room < 0 or not _hold_wide(layer, dtype, held):
            return


def _hold_wide(layer: nn.Module, dtype: torch.dtype, held: Held) -> bool:
    """False where there is no memory for it after all."""
    own = layer.weight
    try:
        wide = nn.Parameter(own.to(dtype), requires_grad=False)
    except Exception as error:
        if is_out_of_memory(error):
            return False
        raise
    # noted first: whatever ends this must find it
    held.append((layer, own, wide))
    layer.weight = wide
    return True


def _free_bytes() -> int:
    """Memory that is free, also in a container that is given less than the machine has."""
    free = int(comfy.model_management.get_free_memory(torch.device("cpu")))
    with contextlib.suppress(OSError, ValueError):
        most, taken = (int((_CONTAINER / f"memory.{name}").read_text()) for name in ("max", "current"))
        free = min(free, most - taken)
    return free


def reserve(model: Any, conds: int, latents: torch.Size) -> int:
    """Bytes that stay free, so that the host decides nothing otherwise than it would without wide weights.

    It computes fewer of the ``conds`` at once (comfy.samplers, _calc_cond_batch) or goes through fewer queries at once
    (comfy.ldm.modules.attention, attention_sub_quad) where less is free, and so rounds otherwise.
    """
    rows = max(conds, 1) * latents[0]
    unet = model.model_config.unet_config
    heads = 2 * unet["model_channels"] // unet["num_head_channels"]
    tokens = -(-latents[-2] // 2) * -(-latents[-1] // 2)
    # four times what the products of those queries with all keys take in fp32
    attention = rows * heads * _QUERIES * tokens * 4 * 4
    at_once = int(1.5 * model.memory_required([rows, *latents[1:]]))
    return _SPARE + max(attention, at_once)


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
