"""The device of a run: what goes there, how much of its memory is free, and that a full one is an error."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on the device. A GPU takes it from pinned memory, so that nobody waits for what it computes now."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def free_bytes(device: torch.device) -> int:
    """Memory that is free on the device, the allocator's own reserve included; elsewhere than on CUDA the system's."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    # accelerate's own requirement
    import psutil

    return int(psutil.virtual_memory().available)


@contextmanager
def no_spill(device: torch.device) -> Iterator[None]:
    """Let a full GPU be an error on Windows too, whose driver would go on in system memory, a hundred times slower."""
    if device.type != "cuda" or sys.platform != "win32":
        yield
        return
    free, total = torch.cuda.mem_get_info(device)
    torch.cuda.set_per_process_memory_fraction(min(1.0, (free + torch.cuda.memory_reserved(device)) / total), device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
