"""The transformer blocks through torch.compile, one compilation for all that are alike (regional compilation)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from diffusers.models.attention import BasicTransformerBlock
from torch import nn

NO_COMPILER = (
    "compile_blocks is on, but torch.compile does not work here ({error}); install a C++ compiler (on a GPU also "
    "Triton), or turn it off in Memory Options."
)


def is_compilers(error: Exception) -> bool:
    """Whether torch.compile raised it, whose parts have errors of their own."""
    return type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))


def compile_blocks(unet: nn.Module, backend: str | Callable[..., Any] = "inductor") -> None:
    """Let every transformer block of the U-Net be compiled when it is first used.

    The blocks of one width share what was compiled, so that SDXL's seventy cost two compilations and not seventy.
    """
    for block in unet.modules():
        if isinstance(block, BasicTransformerBlock):
            block.compile(backend=backend)
