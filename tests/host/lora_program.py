"""Runs ComfyUI as a library and prints, as JSON, what is told of LoRA files of many formats, and what they change.

Started by test_lora_files.py in a process of its own: `lora_program.py COMFYUI ROOT BASE`.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sweep_library import CLIP, FOLDERS, MODEL, SHOT, errors, finished, sweep, write_lora

import comfy.lora  # isort: skip - ComfyUI has begun with the import above
import comfy.utils
import torch
from pack.figures import Axis
from safetensors.torch import load_file, save_file

apply: Any = importlib.import_module("pack.nodes.lora.apply")

WEIGHTS = MODEL.model.state_dict()
TEXT = "lora_te1_text_model_encoder_layers_0_self_attn_q_proj"
Tensors = dict[str, torch.Tensor]


def layers(part: str, most: int) -> dict[str, torch.Tensor]:
    """Weights of the U-Net by diffusers' names of their layers, of which these hold ``part``."""
    names = comfy.utils.unet_to_diffusers(MODEL.model.model_config.unet_config)
    found = {name.removesuffix(".weight"): WEIGHTS[f"diffusion_model.{key}"] for name, key in names.items()
             if part in name and name.endswith(".weight") and f"diffusion_model.{key}" in WEIGHTS}  # fmt: skip
    return dict(list(found.items())[:most])


ATTENTION = layers(".attn", 8)
KERNELS = layers(".conv1", 2)


def pair(name: str, weight: torch.Tensor, up: str, down: str, wider: int = 1) -> Tensors:
    """Factors of rank 2 whose product has the weight's shape, or is so many times as wide and as high."""
    generator = torch.Generator().manual_seed(len(name))
    rows, columns, *kernel = weight.shape
    return {
        f"{name}{up}": torch.randn(rows * wider, 2, *(1 for _ in kernel), generator=generator) * 0.1,
        f"{name}{down}": torch.randn(2, columns * wider, *kernel, generator=generator),
    }


def every(names: Mapping[str, torch.Tensor], before: str, up: str, down: str, **more: int) -> Tensors:
    """Pairs for layers by their names: of kohya's form where these begin with lora_."""
    kohya = before.startswith("lora_")
    found: Tensors = {}
    for name, weight in names.items():
        found |= pair(before + (name.replace(".", "_") if kohya else name), weight, up, down, **more)
    return found


KOHYA = "lora_unet_", ".lora_up.weight", ".lora_down.weight"
PEFT = ".lora_B.weight", ".lora_A.weight"


def with_middle() -> Tensors:
    """Convolutions in three factors, as of Tucker's decomposition."""
    found: Tensors = {}
    for name, weight in KERNELS.items():
        kohya = "lora_unet_" + name.replace(".", "_")
        found |= {
            f"{kohya}.lora_up.weight": torch.ones(weight.shape[0], 2, 1, 1) * 0.1,
            f"{kohya}.lora_down.weight": torch.ones(2, weight.shape[1], 1, 1),
            f"{kohya}.lora_mid.weight": torch.ones(2, 2, *weight.shape[2:]),
        }
    return found


def differences() -> Tensors:
    found: Tensors = {}
    for name, weight in KERNELS.items():
        kohya = "lora_unet_" + name.replace(".", "_")
        found |= {f"{kohya}.diff": torch.ones_like(weight), f"{kohya}.diff_b": torch.ones(weight.shape[0])}
    return found


def norms() -> Tensors:
    names = ("lora_unet_" + name.replace(".", "_") for name in layers(".norm1", 3))
    widths = (len(weight) for weight in layers(".norm1", 3).values())
    return {
        f"{name}.{kind}_norm": torch.ones(width)
        for name, width in zip(names, widths, strict=True)
        for kind in ("w", "b")
    }


def text() -> Tensors:
    key = comfy.lora.model_lora_keys_clip(CLIP.cond_stage_model, {})[TEXT]
    return pair(TEXT, CLIP.cond_stage_model.state_dict()[key], ".lora_up.weight", ".lora_down.weight")


FORMATS: dict[str, Tensors] = {
    "kohya": every(ATTENTION, *KOHYA) | text(),
    "peft": every(ATTENTION, "unet.", *PEFT),
    "peft, named default": every(ATTENTION, "unet.", ".lora_B.default.weight", ".lora_A.default.weight"),
    "peft of the U-Net alone": every(ATTENTION, "", *PEFT),
    "diffusers": every(ATTENTION, "unet.", ".lora.up.weight", ".lora.down.weight"),
    "three factors": with_middle(),
    "differences": differences(),
    "norms": norms(),
    "a magnitude that nobody reads": every(ATTENTION, "unet.", *PEFT)
    | {f"unet.{next(iter(ATTENTION))}.lora_magnitude_vector": torch.ones(4)},
    "one of another shape": every(ATTENTION, *KOHYA) | every(KERNELS, *KOHYA, wider=2),
    "a product of another shape": {"lora_unet_" + next(iter(ATTENTION)).replace(".", "_") + ".diff": torch.ones(3, 3)},
    "all of another shape": every(ATTENTION, *KOHYA, wider=2),
    "unknown names": every(ATTENTION, "network.", *PEFT),
    "text alone": text(),
}


def told(tensors: Tensors, clip: Any) -> dict[str, Any]:
    """What is said of a file of these tensors, and how far each weight that it fits moves."""
    save_file(tensors, FOLDERS["loras"] / "of_a_format.safetensors")
    match = apply.match_lora(MODEL, clip, apply.lora_from_file("of_a_format.safetensors"))
    try:
        model, _ = match.put_on(MODEL, clip, 1.0, 1.0)
    except ValueError as error:
        return {"report": match.report(), "refused": str(error)}
    moved = {}
    for key, patches in model.patches.items():
        merged = comfy.lora.calculate_weight(patches, WEIGHTS[key].clone(), key)
        moved[key] = float((merged - WEIGHTS[key]).abs().sum())
    return {"report": match.report(), "left out": match.left_out, "moved": moved}


def half_a_lora() -> dict[str, list[str]]:
    """Notes about a LoRA with one module that is nowhere and one of another shape, in the ways that cells come."""
    pairs = load_file(write_lora("plain.safetensors", 0))
    stray = {f"lora_unet_nowhere.lora_{side}.weight": torch.ones(4, 4) for side in ("down", "up")}
    odd = {f"lora_unet_out_2.lora_{side}.weight": torch.ones(4, 4) for side in ("down", "up")}
    save_file(pairs | stray | odd, FOLDERS["loras"] / "half.safetensors")
    shot = replace(SHOT, lora_file="half.safetensors")
    words = CLIP.encode_from_tokens_scheduled(CLIP.tokenize("moon"))
    weights = Axis("lora_weight", (0.5, 1.0))
    found = {
        "computed": finished(sweep("half", shot=shot)),
        "from disk": finished(sweep("half", shot=shot)),
        "fast": finished(sweep("half, fast", weights, mode="fast", shot=shot, positive=words, negative=words)),
    }
    assert [grid.results[0].source for grid in found.values()] == ["computed", "cached", "computed"]
    return {way: [str(note) for note in grid.about["notes"]] for way, grid in found.items()}


def lora_of_another_shape() -> dict[str, Any]:
    """Errors and notes of cells with a LoRA that fits and of cells with one of twice the width."""
    pairs = load_file(write_lora("plain.safetensors", 0))
    wide = {name: tensor.repeat(1, 2) if "down" in name else tensor.repeat(2, 1) for name, tensor in pairs.items()}
    save_file(wide, FOLDERS["loras"] / "wide.safetensors")
    axes = Axis("lora_file", ("plain.safetensors", "wide.safetensors")), Axis("seed", (1, 2))
    found = {}
    for mode in ("exact", "fast"):
        grid = finished(sweep(f"wide, {mode}", *axes, mode=mode))
        found[mode] = {"errors": errors(grid), "notes": [str(note) for note in grid.about["notes"]]}
    return found


@torch.inference_mode()
def measure() -> dict[str, Any]:
    found = {name: told(tensors, CLIP) for name, tensors in FORMATS.items()}
    without = {name: told(FORMATS[name], None) for name in ("kohya", "text alone")}
    return {"with CLIP": found, "without": without, "half": half_a_lora(), "wide": lora_of_another_shape()}


print(json.dumps(measure()))
