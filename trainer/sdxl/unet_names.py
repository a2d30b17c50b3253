"""Names of SDXL's U-Net in the two layouts in use: diffusers' and the original one of Stability's generative-models.

Checkpoints, the host and kohya's LoRA keys use the original layout (``input_blocks.4.1…``); the network that is
trained is diffusers' (``down_blocks.1.attentions.0…``). Inner names of transformer blocks are the same in both.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_TOP = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_MID = {"resnets.0": "middle_block.0", "attentions.0": "middle_block.1", "resnets.1": "middle_block.2"}
_BLOCK = re.compile(r"^(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.?(.*)$")
LAYERS_PER_BLOCK = 2


def _inner(kind: str, rest: str) -> str:
    if kind != "resnets":
        return rest
    head, _, tail = rest.partition(".")
    return ".".join(filter(None, (_RESNET.get(head, head), tail)))


def _block(side: str, level: int, kind: str, index: int, rest: str, up_attention: set[int]) -> str:
    per_level = LAYERS_PER_BLOCK + 1
    if side == "down":
        place = f"input_blocks.{per_level * level + 1 + index}"
        if kind == "downsamplers":
            return f"input_blocks.{per_level * (level + 1)}.0.op" + rest.removeprefix("conv")
    else:
        place = f"output_blocks.{per_level * level + index}"
        if kind == "upsamplers":
            slot = 2 if level in up_attention else 1
            return f"output_blocks.{per_level * (level + 1) - 1}.{slot}.{rest}"
    return f"{place}.{0 if kind == 'resnets' else 1}.{_inner(kind, rest)}".rstrip(".")


def _translate(name: str, up_attention: set[int]) -> str:
    if match := _BLOCK.match(name):
        side, level, kind, index, rest = match.groups()
        return _block(side, int(level), kind, int(index), rest, up_attention)
    head, _, tail = name.partition(".")
    if head == "mid_block":
        kind, index, *rest = tail.split(".")
        return ".".join(filter(None, (_MID[f"{kind}.{index}"], _inner(kind, ".".join(rest)))))
    for ours, theirs in _TOP.items():
        if name == ours or name.startswith(ours + "."):
            return theirs + name[len(ours) :]
    raise ValueError(f"'{name}' is not the name of a part of SDXL's U-Net in diffusers' layout.")


def to_original(names: Iterable[str]) -> dict[str, str]:
    """Map diffusers names of one U-Net to names in the original layout.

    ``names`` are parameter or module names of one ``UNet2DConditionModel``; all of them are needed at once, because
    the slot of an upsampler depends on whether its level has attention.

    Raises:
        ValueError: a name that is no part of an SDXL U-Net.
    """
    names = list(names)
    up_attention = {int(n.split(".")[1]) for n in names if n.startswith("up_blocks.") and ".attentions." in n}
    return {name: _translate(name, up_attention) for name in names}
