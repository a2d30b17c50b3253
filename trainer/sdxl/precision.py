"""The number formats of the settings as torch knows them, and the one in which a device had better compute."""

from __future__ import annotations

import torch

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
# what torch's kernels for x86 are built for where there are no products of half the width
_NO_HALF_PRODUCTS = ("DEFAULT", "AVX2")


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The dtype of products and activations for a precision of the settings.

    A CPU without arithmetic for bf16 and fp16 takes three to ten times as long with them as with fp32: there the
    base stays stored as it is, and each weight is widened while it is used.
    """
    if precision != "fp32" and device.type == "cpu" and not cpu_multiplies(precision):
        return torch.float32
    return DTYPES[precision]


def cpu_multiplies(precision: str) -> bool:
    """Whether this CPU has products of bf16 or fp16; AVX-512 alone does not tell, half of its makes have none."""
    capability = torch.backends.cpu.get_cpu_capability()
    if capability in _NO_HALF_PRODUCTS:
        return False
    if not capability.startswith("AVX512"):
        return True
    if precision == "fp16":
        return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
    # oneDNN's own answer counts bf16 that it widens by itself
    return any(_cpu_has(name) for name in ("avx512_bf16", "amx_tile"))


def _cpu_has(name: str) -> bool:
    # older torch cannot say; it computes as it is told, as every torch did
    asked = getattr(torch.cpu, f"_is_{name}_supported", None)
    return True if asked is None else bool(asked())


def widened(tensor: torch.Tensor) -> torch.Tensor:
    """The same numbers as float64 on the CPU, detached: not every device has that format, Apple's MPS for one."""
    return tensor.detach().cpu().double()
