"""A LoRA on the host's MODEL and CLIP, with a count of what matched."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.lora
import comfy.lora_convert
import comfy.utils
import folder_paths
import torch
from comfy.weight_adapter import BOFTAdapter, OFTAdapter

from ...trainer.errors import LoraFileError
from ...trainer.lora.file import read_lora
from ...trainer.lora.info import module_of
from ..reports import some

# the host's patches by what each changes: a weight, or a tuple of a weight and which part of it
Patches = dict[Any, Any]

_OF_TEXT = ("lora_te", "text_encoder")
# attention layers by diffusers' names, of which the host knows only the old ones with a processor in between
_PROJECTION = re.compile(
    r"^((?:unet\.)?(?:down_blocks|mid_block|up_blocks)\..+\.attn[12])\.(to_[qkv]|to_out)(?:\.0)?\."
)


@dataclass(frozen=True)
class Match:
    """Which weights of a MODEL and a CLIP a LoRA fits, and what of it fits none.

    modules: of the whole LoRA. unplaced: modules that the networks have not, or of which the host cannot read all.
    misshapen: layers of the networks that are of another shape than the LoRA's.
    """

    to_model: Patches
    to_clip: Patches
    modules: int
    unplaced: tuple[str, ...]
    misshapen: tuple[str, ...]

    def report(self) -> str:
        counts = len(_layers(self.to_model)), len(_layers(self.to_clip))
        lines = ["{} modules matched in the U-Net, {} in the text encoders.".format(*counts)]
        if self.unplaced:
            lines.append(f"{len(self.unplaced)} found no place: {some(self.unplaced)}.")
        if self.misshapen:
            lines.append(f"{len(self.misshapen)} are of another shape than the model's: {some(self.misshapen)}.")
        return "\n".join(lines)

    @property
    def left_out(self) -> str:
        """The report of a LoRA that fits in part; empty for one that fits as a whole."""
        return self.report() if self.unplaced or self.misshapen else ""

    def put_on(self, model: Any, clip: Any, strength_model: float, strength_clip: float) -> tuple[Any, Any]:
        """Clones of MODEL and CLIP, which may be None, with what fits, as the host's LoraLoader makes them.

        Raises:
            LoraFileError: nothing fits.
        """
        if not self.to_model and not self.to_clip:
            raise LoraFileError(f"None of the LoRA's {self.modules} modules fits this MODEL: {self._why_none()}.")
        new_model = model.clone()
        new_model.add_patches(self.to_model, strength_model)
        new_clip = None
        if clip is not None:
            new_clip = clip.clone()
            new_clip.add_patches(self.to_clip, strength_clip)
        return new_model, new_clip

    def _why_none(self) -> str:
        if self.misshapen:
            return f"they have other shapes than its layers, such as {self.misshapen[0]}; choose a LoRA for this one"
        if self.unplaced:
            return f"it is of another architecture, or has names that ComfyUI does not know, such as {self.unplaced[0]}"
        return "they are all for the text encoders, and no CLIP is connected"


def lora_from_file(name: str) -> dict[str, torch.Tensor]:
    """The tensors of a file that the host lists, under names that its loader knows.

    Raises:
        LoraFileError: no such file, or not readable.
    """
    if not name:
        raise LoraFileError("No LoRA is given: connect one to lora or choose a file.")
    path = folder_paths.get_full_path("loras", name)
    if path is None:
        raise LoraFileError(f"There is no LoRA '{name}'; choose one from the list.")
    return {_PROJECTION.sub(r"\1.processor.\2.", key): tensor for key, tensor in read_lora(Path(path)).items()}


def match_lora(model: Any, clip: Any, lora: Mapping[str, torch.Tensor]) -> Match:
    """Finds the weights that a LoRA's modules fit. ``clip`` may be None; modules for its networks then do not count."""
    key_map = comfy.lora.model_lora_keys_unet(model.model, {})
    if clip is not None:
        key_map = comfy.lora.model_lora_keys_clip(clip.cond_stage_model, key_map)
    tensors = _Asked(comfy.lora_convert.convert_lora(dict(lora)))
    patches = comfy.lora.load_lora(tensors, key_map, log_missing=False)
    to_model, odd = _in_network(model.model, patches)
    to_clip, odd_text = ({}, {}) if clip is None else _in_network(clip.cond_stage_model, patches)
    unplaced = {module_of(key) for key in tensors.keys() - tensors.asked}
    if clip is None:
        unplaced = {name for name in unplaced if not name.startswith(_OF_TEXT)}
    unplaced |= _layers(patches.keys() - {*to_model, *to_clip, *odd, *odd_text})
    modules = len({module_of(key) for key in tensors})
    return Match(to_model, to_clip, modules, tuple(sorted(unplaced)), tuple(sorted(_layers([*odd, *odd_text]))))


class _Asked(dict[str, torch.Tensor]):
    """Tensors by name, and the names of those that somebody has taken."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        super().__init__(tensors)
        self.asked: set[str] = set()

    def __getitem__(self, key: str) -> torch.Tensor:
        self.asked.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)


def _in_network(network: torch.nn.Module, patches: Patches) -> tuple[Patches, Patches]:
    """Those patches whose weights a network has: such as fit, and such as are of another shape."""
    own = network.state_dict().keys()
    fitting, others = {}, {}
    for place, patch in patches.items():
        weight, *part = place if isinstance(place, tuple) else (place,)
        if weight in own:
            # a quantized weight tells its own shape, and state_dict what it is packed into
            shape = comfy.utils.get_attr(network, weight).shape
            (fitting if _fits(patch, shape, weight, *part) else others)[place] = patch
    return fitting, others


def _fits(patch: Any, shape: Sequence[int], name: str, offset: Any = None, function: Any = None) -> bool:
    """Whether the host can merge a patch into a weight of that shape: its own arithmetic, on tensors without values.

    What it cannot merge it logs, and leaves the weight as it was.
    """
    # their arithmetic asks for values, so they are taken on trust
    if isinstance(patch, (OFTAdapter, BOFTAdapter)):
        return True
    with torch.inference_mode(False), torch.no_grad():
        weight = torch.empty(shape, device="meta")
        untouched = weight._version
        try:
            merged = comfy.lora.calculate_weight([(1.0, patch, 1.0, offset, function)], weight, name)
        except Exception:  # of factors that do not even fit each other
            return False
        return merged is not weight or weight._version != untouched


def _layers(places: Iterable[Any]) -> set[str]:
    """The layers whose weights or biases patches change."""
    weights = (place[0] if isinstance(place, tuple) else place for place in places)
    return {weight.removesuffix(".weight").removesuffix(".bias") for weight in weights}
