"""A LoRA on the host's MODEL and CLIP, with a count of what matched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.lora
import comfy.lora_convert
import folder_paths
import torch

from ...trainer.errors import LoraFileError
from ...trainer.lora.file import read_lora

_WEIGHT_NAMES = (".lora_down.weight", ".lora_up.weight", ".alpha", ".lora_A.weight", ".lora_B.weight", ".dora_scale")


@dataclass(frozen=True)
class Applied:
    """MODEL and CLIP with a LoRA, and how many of its modules found their place."""

    model: Any
    clip: Any
    matched_model: int
    matched_clip: int
    unmatched: tuple[str, ...]

    def report(self) -> str:
        lines = [f"{self.matched_model} modules matched in the U-Net, {self.matched_clip} in the text encoders."]
        if self.unmatched:
            more = f" and {len(self.unmatched) - 3} more" if len(self.unmatched) > 3 else ""
            lines.append(f"{len(self.unmatched)} found no place: {', '.join(self.unmatched[:3])}{more}.")
        return "\n".join(lines)


def lora_from_file(name: str) -> dict[str, torch.Tensor]:
    """The tensors of a file that the host lists.

    Raises:
        LoraFileError: no such file, or not readable.
    """
    if not name:
        raise LoraFileError("No LoRA is given: connect one to lora or choose a file.")
    path = folder_paths.get_full_path("loras", name)
    if path is None:
        raise LoraFileError(f"There is no LoRA '{name}'; choose one from the list.")
    return read_lora(Path(path))


def apply_lora(
    model: Any, clip: Any, lora: Mapping[str, torch.Tensor], strength_model: float, strength_clip: float
) -> Applied:
    """What the host's LoraLoader does, and the count. ``clip`` may be None.

    Raises:
        LoraFileError: no module of the LoRA fits.
    """
    names = {_module(key) for key in lora}
    key_map = comfy.lora.model_lora_keys_unet(model.model, {})
    unet_keys = set(map(str, key_map.values()))
    if clip is not None:
        key_map = comfy.lora.model_lora_keys_clip(clip.cond_stage_model, key_map)
    patches = comfy.lora.load_lora(comfy.lora_convert.convert_lora(dict(lora)), key_map, log_missing=False)
    if not patches:
        raise LoraFileError(f"None of the LoRA's {len(names)} modules fits this MODEL: it is of another architecture.")
    new_model = model.clone()
    to_model = set(new_model.add_patches(patches, strength_model))
    new_clip, to_clip = None, set()
    if clip is not None:
        new_clip = clip.clone()
        to_clip = set(new_clip.add_patches(patches, strength_clip))
    found = {name for name in names if name in key_map}
    text = {name for name in names if name.startswith("lora_te")} if clip is None else set()
    return Applied(new_model, new_clip, len(to_model & unet_keys), len(to_clip), tuple(sorted(names - found - text)))


def _module(key: str) -> str:
    for ending in _WEIGHT_NAMES:
        if key.endswith(ending):
            return key.removesuffix(ending)
    return key
