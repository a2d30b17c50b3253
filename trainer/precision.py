"""The number formats of the settings as torch knows them, and the one in which a device had better compute."""

from __future__ import annotations

import torch

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
# what torch's kernels for x86 are built for; from AVX-512 on there are products of half the width
_NO_HALF_PRODUCTS = ("DEFAULT", "AVX2")


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The dtype of products and activations for a precision of the settings.

    A CPU without arithmetic for bf16 and fp16 takes three to five times as long with them as with fp32: there the
    base stays stored as it is, and each weight is widened while it is used.
    """
    if device.type == "cpu" and torch.backends.cpu.get_cpu_capability() in _NO_HALF_PRODUCTS:
        return torch.float32
    return DTYPES[precision]
