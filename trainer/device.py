"""The device of a run: what goes there, how much of its memory is free, and that a full one is an error."""

from __future__ import annotations

import ctypes
import gc
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on the device. A GPU takes it from pinned memory, so that nobody waits for what it computes now."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def has_all_kernels(device: torch.device) -> bool:
    """Whether torch's foreach functions and fused optimizers are whole there.

    On Apple's MPS the first are refused, and the second take a step although a flag on the device says not to.
    """
    return device.type in ("cuda", "cpu")


def free_bytes(device: torch.device) -> int:
    """Memory that is free on the device, the allocator's own reserve included; elsewhere than on CUDA the system's."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    # accelerate's own requirement
    import psutil

    return int(psutil.virtual_memory().available)


def give_back(device: torch.device) -> None:
    """Return what a run has let go of to the device, so that others find it free."""
    gc.collect()
    if device.type != "cuda":
        return
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    _trim_graphs(device)


def _trim_graphs(device: torch.device) -> None:
    """Return the memory of CUDA graphs that are no more: with CUDA's asynchronous allocator, which ComfyUI takes by
    default, the driver keeps it for graphs to come, and torch has no call that says otherwise."""
    index = torch.cuda.current_device() if device.index is None else device.index
    handle = ctypes.c_int()
    # without the driver's own library there are no graphs either
    with suppress(OSError, AttributeError):
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        if driver.cuDeviceGet(ctypes.byref(handle), index) == 0:
            driver.cuDeviceGraphMemTrim(handle)


def _spills() -> bool:
    """Whether the GPU's driver is Windows' own, as it is under WSL2, whose Linux kernel bears Microsoft's name."""
    return sys.platform == "win32" or "microsoft" in platform.release().lower()


@contextmanager
def no_spill(device: torch.device) -> Iterator[None]:
    """Let a full GPU be an error on Windows too, whose driver would go on in system memory, a hundred times slower."""
    if device.type != "cuda" or not _spills():
        yield
        return
    free, total = torch.cuda.mem_get_info(device)
    torch.cuda.set_per_process_memory_fraction(min(1.0, (free + torch.cuda.memory_reserved(device)) / total), device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
