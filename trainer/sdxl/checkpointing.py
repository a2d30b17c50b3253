"""Which parts of the networks compute their activations again in the backward pass instead of keeping them."""

from __future__ import annotations

from functools import partial

from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import nn
from torch.utils.checkpoint import checkpoint

from .parts import Parts

# In the order in which time is given up for memory. At 1024 pixels SDXL's outer transformers, at 4096 positions, keep
# some 2 GB that take 1 TFLOP to compute again; the inner ones 6 GB for 3.5; the residual blocks 0.8 GB for 1.2.
LEVELS = ("nothing", "the outer transformers", "all transformers", "everything")


def use_checkpointing(parts: Parts, level: str, *, text: bool, drops: bool) -> None:
    """Turn it on for one of ``LEVELS``; ``text``: with everything, in the encoders as well.

    drops: adapters leave something out at random, which must be the same the second time.

    It works in training mode only, which changes nothing else: SDXL has no dropout, and its norms keep no statistics.
    """
    wanted = LEVELS.index(level)
    for module in parts.modules():
        module.train(wanted > 0)
    unet = parts.unet
    # without draws the generators' states need not be read, for which a recorded CUDA graph would have no answer
    how: dict[str, object] = {"use_reentrant": False, "preserve_rng_state": drops}
    unet.enable_gradient_checkpointing(partial(checkpoint, **how))
    outer = min((width for width in map(_width, unet.modules()) if width), default=0)
    for module in unet.modules():
        if hasattr(module, "gradient_checkpointing"):
            module.gradient_checkpointing = wanted >= _first_level(module, outer)
    for encoder in (parts.te1, parts.te2):
        if text:
            _use_in_encoder(encoder, how if level == LEVELS[-1] else None)


def _use_in_encoder(encoder: nn.Module, how: dict[str, object] | None) -> None:
    # transformers 5 gave both another name, and 6 is to know no other
    kind = "activation" if hasattr(encoder, "activation_checkpointing_enable") else "gradient"
    if how is None:
        getattr(encoder, f"{kind}_checkpointing_disable")()
    else:
        getattr(encoder, f"{kind}_checkpointing_enable")(how)


def _first_level(module: nn.Module, outer: int) -> int:
    width = _width(module)
    return LEVELS.index("everything") if not width else 1 if width == outer else 2


def _width(module: nn.Module) -> int:
    """Channels of a stack of transformer blocks; the level of the fewest has the most positions."""
    return module.inner_dim if isinstance(module, Transformer2DModel) else 0
