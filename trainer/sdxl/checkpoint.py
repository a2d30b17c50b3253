"""SDXL's single-file checkpoint: from and to the names of diffusers and transformers.

Layout of Stability's ``sd_xl_base_1.0.safetensors``: the U-Net under ``model.diffusion_model.``, CLIP-L in
transformers' names under ``conditioner.embedders.0.transformer.``, OpenCLIP bigG in OpenCLIP's names under
``conditioner.embedders.1.model.`` (query, key and value in one matrix, the projection transposed), the VAE under
``first_stage_model.``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch

from .unet_names import to_original

UNET_PREFIX = "model.diffusion_model."
TE1_PREFIX = "conditioner.embedders.0.transformer."
TE2_PREFIX = "conditioner.embedders.1.model."
VAE_PREFIX = "first_stage_model."

StateDict = Mapping[str, torch.Tensor]

_OPENCLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_OPENCLIP_TOP = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
}
_LAYER = re.compile(r"^text_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)$")


def canonical_text_names(names: Iterable[str]) -> dict[str, str]:
    """Map a CLIP text model's parameter names to those with the prefix ``text_model.``.

    transformers 4 has the prefix in both of its text models, transformers 5 only in the one with a projection.
    """
    return {n: n if n.startswith(("text_model.", "text_projection.")) else f"text_model.{n}" for n in names}


def openclip_state(state: StateDict) -> dict[str, torch.Tensor]:
    """transformers' names (with ``text_model.``) to OpenCLIP's; q, k and v are stacked into one matrix."""
    out: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        if name in _OPENCLIP_TOP:
            out[_OPENCLIP_TOP[name]] = tensor
        elif name == "text_projection.weight":
            out["text_projection"] = tensor.T.contiguous()
        elif match := _LAYER.match(name):
            layer, part, kind = match.groups()
            place = f"transformer.resblocks.{layer}."
            if part in _OPENCLIP_LAYER:
                out[f"{place}{_OPENCLIP_LAYER[part]}.{kind}"] = tensor
            elif part == "self_attn.q_proj":
                stem = name.removesuffix(f"q_proj.{kind}")
                stacked = torch.cat([state[f"{stem}{p}_proj.{kind}"] for p in "qkv"])
                out[f"{place}attn.in_proj_{kind}"] = stacked
    return out


def transformers_state(state: StateDict) -> dict[str, torch.Tensor]:
    """OpenCLIP's names to transformers' (with ``text_model.``); the stacked q, k, v become views of their rows."""
    top = {theirs: ours for ours, theirs in _OPENCLIP_TOP.items()}
    parts = {theirs: ours for ours, theirs in _OPENCLIP_LAYER.items()}
    out: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        if name in top:
            out[top[name]] = tensor
        elif name == "text_projection":
            out["text_projection.weight"] = tensor.T
        elif match := re.match(r"^transformer\.resblocks\.(\d+)\.(.+?)[._](weight|bias)$", name):
            layer, part, kind = match.groups()
            place = f"text_model.encoder.layers.{layer}."
            if part == "attn.in_proj":
                for letter, rows in zip("qkv", tensor.chunk(3), strict=True):
                    out[f"{place}self_attn.{letter}_proj.{kind}"] = rows
            else:
                out[f"{place}{parts[part]}.{kind}"] = tensor
    return out


def join(unet: StateDict, te1: StateDict, te2: StateDict, vae: StateDict) -> dict[str, torch.Tensor]:
    """One checkpoint from four parts.

    Args:
        unet: diffusers names of ``UNet2DConditionModel``.
        te1: transformers names of CLIP-L, with or without the prefix ``text_model.``.
        te2: transformers names of bigG with its projection, with or without the prefix.
        vae: names as the checkpoint has them behind ``first_stage_model.``.
    """
    unet_names, te1_names, te2_names = to_original(unet), canonical_text_names(te1), canonical_text_names(te2)
    out = {UNET_PREFIX + unet_names[n]: t for n, t in unet.items()}
    out |= {TE1_PREFIX + te1_names[n]: t for n, t in te1.items()}
    out |= {TE2_PREFIX + n: t for n, t in openclip_state({te2_names[n]: t for n, t in te2.items()}).items()}
    return out | {VAE_PREFIX + n: t for n, t in vae.items()}
