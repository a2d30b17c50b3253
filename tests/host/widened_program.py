"""Runs ComfyUI as a library with its U-Net in bf16 and prints, as JSON, what comes of widening weights only once.

Started by test_widened.py in a process of its own: `widened_program.py COMFYUI ROOT BASE`.
"""

from __future__ import annotations

import importlib
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from comfy_library import ROOT, start

start("--bf16-unet", "--fp32-text-enc")

import comfy.lora  # noqa: E402
import comfy.model_management  # noqa: E402
import comfy.sd  # noqa: E402
import comfy.utils  # noqa: E402
import torch  # noqa: E402

import nodes as host_nodes  # noqa: E402

sampling: Any = importlib.import_module("pack.nodes.sampling")
widened: Any = importlib.import_module("pack.nodes.widened")
shots_of: Any = importlib.import_module("pack.nodes.shot")
apply_lora: Any = importlib.import_module("pack.nodes.apply").apply_lora


def lora_for(model: Any) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    weights, pairs = model.model.state_dict(), {}
    for name, key in comfy.lora.model_lora_keys_unet(model.model, {}).items():
        if name.startswith("lora_unet_") and key.endswith("to_q.weight"):
            rows, columns = weights[key].shape
            pairs[f"{name}.lora_down.weight"] = torch.randn(2, columns, generator=generator)
            pairs[f"{name}.lora_up.weight"] = torch.randn(rows, 2, generator=generator) * 0.05
    return pairs


def kinds(model: Any) -> Counter[str]:
    """How many of the U-Net's weights are of each dtype."""
    layers = model.model.diffusion_model.modules()
    return Counter(str(layer.weight.dtype) for layer in layers if getattr(layer, "weight", None) is not None)


@contextmanager
def little_memory(model: Any) -> Iterator[None]:
    """As much is free as what must stay free and 3 MiB, less what wide weights take."""
    real, spare, layers = comfy.model_management.get_free_memory, widened._SPARE, list(model.model.modules())
    narrow = sum(p.nbytes for p in model.model.parameters())
    widened._SPARE = 0
    most = widened.reserve(model.model, 2, torch.Size((1, 4, 8, 8))) + 3 * 2**20

    def free(device: Any, also: bool = False) -> Any:
        left = most - sum(p.nbytes for layer in layers for p in layer.parameters(recurse=False)) + narrow
        return (left, left) if also else left

    comfy.model_management.get_free_memory = free
    try:
        yield
    finally:
        comfy.model_management.get_free_memory, widened._SPARE = real, spare


@contextmanager
def rows_seen(model: Any) -> Iterator[list[int]]:
    """How many rows the U-Net is given at each of its calls."""
    rows: list[int] = []
    hook = model.model.diffusion_model.register_forward_pre_hook(lambda unet, given: rows.append(len(given[0])))
    try:
        yield rows
    finally:
        hook.remove()


class Interrupted(Exception):
    """As the host's own, in the middle of a sampling."""


@torch.inference_mode()
def measure() -> dict[str, Any]:
    model, clip, vae = comfy.sd.load_checkpoint_guess_config(str(ROOT / "demo" / "tiny_sdxl.safetensors"))[:3]
    comfy.utils.set_progress_bar_enabled(False)
    lora = lora_for(model)
    studio = sampling.Studio(sampling.Subject(model, clip, vae, lora))
    before = {name: tensor.clone() for name, tensor in model.model.state_dict().items()}
    base = shots_of.Shot(
        prompt="moon", negative="sun", seed=3, steps=3, cfg=4.0, sampler="euler", scheduler="karras", denoise=1.0,
        width=64, height=64, lora_weight_model=0.7, lora_weight_clip=0.0,
    )  # fmt: skip
    during: dict[str, Counter[str]] = {}

    def watching(name: str, ends: bool = False) -> None:
        def on_step(step: int, *rest: Any) -> None:
            during[name] = kinds(model)
            if ends:
                raise Interrupted

        studio.watch = lambda model, shot: on_step

    def plain(shot: Any) -> torch.Tensor:
        patched = apply_lora(model, clip, lora, 0.7, 0.0).model
        yes, no = studio.conditioning(shot)
        empty = host_nodes.EmptyLatentImage().generate(64, 64)[0]
        given = (shot.seed, shot.steps, shot.cfg, shot.sampler, shot.scheduler, yes, no, empty)
        return host_nodes.KSampler().sample(patched, *given)[0]["samples"]

    found: dict[str, Any] = {"equal": {}}
    for sampler in ("euler", "dpmpp_2m", "dpmpp_sde"):
        shot = replace(base, sampler=sampler)
        watching(sampler)
        found["equal"][sampler] = torch.equal(studio.expose(shot), plain(shot))
    single = replace(base, steps=1)
    watching("one step")
    found["equal"]["one step"] = torch.equal(studio.expose(single), plain(single))
    found["rows at once"] = {}
    with little_memory(model):
        watching("little memory")
        for name, latents in (("ours", studio.expose), ("the host's", plain)):
            with rows_seen(model) as found["rows at once"][name]:
                found["equal"].setdefault("little memory", []).append(latents(base))
    found["equal"]["little memory"] = torch.equal(*found["equal"]["little memory"])
    watching("interrupted", ends=True)
    try:
        studio.expose(base)
    except Interrupted:
        found["after an interrupt"] = kinds(model)
    found["during"] = during
    comfy.model_management.unload_all_models()
    found["unchanged"] = all(torch.equal(before[name], held) for name, held in model.model.state_dict().items())
    found["after"] = kinds(model)
    return found


print(json.dumps(measure()))
