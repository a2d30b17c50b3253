"""The encoder of SDXL's VAE: from the checkpoint's names to diffusers'."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from ..errors import ModelError

State = dict[str, torch.Tensor]
_BLOCK = re.compile(r"^encoder\.down\.(\d+)\.block\.(\d+)\.(.+)$")
_DOWNSAMPLE = re.compile(r"^encoder\.down\.(\d+)\.downsample\.conv\.(.+)$")
_MID = {"block_1": "resnets.0", "attn_1": "attentions.0", "block_2": "resnets.1"}
_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
_TOP = {
    "encoder.conv_in": "encoder.conv_in",
    "encoder.norm_out": "encoder.conv_norm_out",
    "encoder.conv_out": "encoder.conv_out",
    "quant_conv": "quant_conv",
}


def to_diffusers(name: str) -> str | None:
    """diffusers' name of a tensor; None for what is not of the encoder."""
    if match := _BLOCK.match(name):
        level, index, rest = match.groups()
        return f"encoder.down_blocks.{level}.resnets.{index}.{rest.replace('nin_shortcut', 'conv_shortcut')}"
    if match := _DOWNSAMPLE.match(name):
        return f"encoder.down_blocks.{match[1]}.downsamplers.0.conv.{match[2]}"
    if name.startswith("encoder.mid."):
        part, _, rest = name.removeprefix("encoder.mid.").partition(".")
        head, _, kind = rest.rpartition(".")
        head = _ATTENTION.get(head, head) if part == "attn_1" else head
        return f"encoder.mid_block.{_MID[part]}.{head}.{kind}" if part in _MID else None
    head, _, kind = name.rpartition(".")
    return f"{_TOP[head]}.{kind}" if head in _TOP else None


def vae_encoder_state(state: Mapping[str, torch.Tensor]) -> State:
    """Encoder tensors under diffusers' names; 1×1 convolutions of the attention become matrices.

    Raises:
        ModelError: no VAE of Stable Diffusion's kind.
    """
    out: State = {}
    for name, tensor in state.items():
        if (ours := to_diffusers(name)) is None:
            continue
        flat = ".attentions." in ours and tensor.ndim == 4
        out[ours] = tensor[:, :, 0, 0] if flat else tensor
    if "encoder.conv_in.weight" not in out or "quant_conv.weight" not in out:
        raise ModelError(
            "The checkpoint's VAE is not of Stable Diffusion's kind (it has no 'encoder.conv_in'); "
            "name a file with SDXL's VAE."
        )
    if (channels := out["quant_conv.weight"].shape[0]) != 8:
        raise ModelError(f"The VAE makes latents of {channels // 2} channels, SDXL's have 4; name SDXL's VAE.")
    return out


def vae_config(state: State) -> dict[str, object]:
    """Arguments of diffusers' ``AutoencoderKL`` for an encoder's tensors."""
    layers = sum(
        re.fullmatch(r"encoder\.down_blocks\.0\.resnets\.\d+\.conv1\.weight", name) is not None for name in state
    )
    widths = []
    while (name := f"encoder.down_blocks.{len(widths)}.resnets.0.conv1.weight") in state:
        widths.append(state[name].shape[0])
    return {
        "block_out_channels": tuple(widths),
        "down_block_types": ("DownEncoderBlock2D",) * len(widths),
        "up_block_types": ("UpDecoderBlock2D",) * len(widths),
        "layers_per_block": layers,
        "latent_channels": 4,
        # smaller models of the kind have fewer channels than SDXL's 32 groups
        "norm_num_groups": min(32, widths[0]),
    }
