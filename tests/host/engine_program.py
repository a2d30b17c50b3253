"""Runs ComfyUI as a library and prints, as JSON, what a sweep loads, how it batches, and what it counts.

Started by test_engine.py in a process of its own: `engine_program.py COMFYUI ROOT BASE`.
"""

from __future__ import annotations

import importlib
import json
import time
from dataclasses import replace
from typing import Any

from sweep_library import (
    CLIP,
    FOLDERS,
    MODEL,
    OTHER,
    SHOT,
    VAE,
    errors,
    finished,
    lines_told,
    sampling,
    shots_of,
    sweep,
    write_lora,
)

import comfy.hooks  # isort: skip - ComfyUI has begun with the import above
import comfy.model_management
import comfy.samplers
import comfy.utils
import torch
from comfy.patcher_extension import WrappersMP
from pack.figures import Axis
from safetensors.torch import load_file, save_file

batching: Any = importlib.import_module("pack.nodes.batching")
cell_key: Any = importlib.import_module("pack.nodes.cell_key")
grid_of: Any = importlib.import_module("pack.nodes.grid")
host_nodes: Any = importlib.import_module("nodes")


def broken_checkpoint() -> dict[str, Any]:
    """A fast sweep of three checkpoints with a LoRA, of which the second can be hashed and not loaded."""
    (FOLDERS["checkpoints"] / "broken.safetensors").write_bytes(b"no checkpoint at all")
    loaded: list[str] = []
    load = host_nodes.CheckpointLoaderSimple.load_checkpoint

    def counted(self: Any, ckpt_name: str) -> Any:
        loaded.append(ckpt_name)
        return load(self, ckpt_name)

    host_nodes.CheckpointLoaderSimple.load_checkpoint = counted
    try:
        files = Axis("checkpoint", ("", "broken.safetensors", OTHER.name))
        lora = load_file(write_lora("plain.safetensors", 0))
        grid = finished(sweep("broken", files, Axis("seed", (1, 2)), mode="fast", lora=lora))
    finally:
        host_nodes.CheckpointLoaderSimple.load_checkpoint = load
    return {"errors": errors(grid), "ways": [result.how for result in grid.results], "loaded": loaded}


def measured_cells() -> dict[str, Any]:
    """Which cells of a fast sweep over CFG scale and LoRA weight the difference is measured on, and of which way."""
    lora = load_file(write_lora("plain.safetensors", 0))
    axes = Axis("lora_weight", (0.0, 0.5, 1.0)), Axis("cfg", (2.0, 8.0))
    mixed = sweep("measured", *axes, mode="fast", lora=lora)
    grid = finished(mixed)
    whole = sweep("measured", Axis("cfg", (3.0, 7.0)), mode="fast", lora=lora)
    finished(whole)
    return {
        "mixed": [[list(kind), check["cell"]] for kind, check in mixed.checks.items()],
        "whole": [[list(kind), check["cell"]] for kind, check in whole.checks.items()],
        "of every cell": sorted({result.check["cell"] for result in grid.results}),
        "seconds": [mixed.checking, mixed.studio.busy, sum(result.seconds for result in grid.results)],
    }


def kept_models() -> dict[str, bool]:
    """What stays as it was when one of a LoRA's two weights changes."""
    studio = sampling.Studio(sampling.Subject(MODEL, CLIP, VAE, load_file(write_lora("plain.safetensors", 0))))
    first = studio._apply(SHOT)
    text = studio._apply(replace(SHOT, lora_weight_clip=0.5))
    unet = studio._apply(replace(SHOT, lora_weight_clip=0.5, lora_weight_model=0.5))
    return {
        "model": text[0] is first[0] and text[1] is not first[1],
        "clip": unet[1] is text[1] and unet[0] is not text[0],
    }


def half_a_lora() -> list[str]:
    pairs = load_file(write_lora("plain.safetensors", 0))
    stray = {f"lora_unet_nowhere.lora_{side}.weight": torch.ones(4, 4) for side in ("down", "up")}
    save_file(pairs | stray, FOLDERS["loras"] / "half.safetensors")
    grid = finished(sweep("half", shot=replace(SHOT, lora_file="half.safetensors")))
    return [str(note) for note in grid.about["notes"]]


def seconds_of_a_cell() -> tuple[float, float]:
    """Of a cell before whose sampling two seconds pass: its own seconds, and all."""
    sweeping = sweep("seconds")
    follow = sweeping.studio.watch
    sweeping.studio.watch = lambda *given: time.sleep(2) or follow(*given)
    began = time.perf_counter()
    grid = finished(sweeping)
    return grid.results[0].seconds, time.perf_counter() - began


def evaluations() -> dict[str, float]:
    """How often each sampler asks the model in a step, on average over many of them, by counting."""
    found = {}
    for sampler in sorted(batching.BATCHED_SAMPLERS):
        asked: list[int] = []
        model = MODEL.clone()

        def ask(executor: Any, *given: Any, asked: list[int] = asked, **named: Any) -> Any:
            asked.append(1)
            return executor(*given, **named)

        model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "count", ask)
        studio = sampling.Studio(sampling.Subject(model, CLIP, VAE))
        studio.expose(replace(SHOT, sampler=sampler, steps=12, cfg=1.0, width=32, height=32))
        found[sampler] = len(asked) / 12
    return found


def names() -> dict[str, bool]:
    """Whether cells bear the same name that should, and another that should."""
    plain = cell_key.Keys(sampling.Subject(MODEL, CLIP, VAE))
    weighed = replace(SHOT, lora_weight_model=0.5, lora_weight_clip=0.5)
    found = {"no LoRA, another weight": plain.of(SHOT, "exact") == plain.of(weighed, "exact")}
    words = [[torch.zeros(1, 77, 128), {}]]
    skipping = CLIP.clone()
    skipping.clip_layer(-3)
    with_both = [
        cell_key.Keys(sampling.Subject(MODEL, clip, VAE, positive=words, negative=words)).of(SHOT, "exact")
        for clip in (CLIP, skipping, None)
    ]
    found["another CLIP that encodes nothing"] = len(set(with_both)) == 1
    with_one = [
        cell_key.Keys(sampling.Subject(MODEL, clip, VAE, positive=words)).of(SHOT, "exact") for clip in (CLIP, skipping)
    ]
    found["another CLIP that encodes"] = len(set(with_one)) == 2
    hooked = CLIP.clone()
    hooked.patcher.forced_hooks = comfy.hooks.HookGroup()
    found["hooks on the CLIP"] = cell_key.Keys(sampling.Subject(MODEL, hooked, VAE)).of(SHOT, "exact") != plain.of(
        SHOT, "exact"
    )
    before = comfy.model_management.vram_state
    comfy.model_management.vram_state = comfy.model_management.VRAMState.HIGH_VRAM
    found["where weights lie"] = cell_key.Keys(sampling.Subject(MODEL, CLIP, VAE)).of(SHOT, "exact") != plain.of(
        SHOT, "exact"
    )
    comfy.model_management.vram_state = before
    return found


def missing_parts() -> list[str]:
    said = []
    for clip, vae in ((None, VAE), (CLIP, None)):
        try:
            sampling.Subject(MODEL, clip, vae)
        except ValueError as error:
            said.append(str(error))
    return said


def without_effect() -> dict[str, list[str]]:
    """Axes that are said to change nothing, of grids with failed cells."""

    def told(*pixels: str) -> list[str]:
        axes = Axis("seed", (1, 2)), Axis("cfg", (1.0, 2.0))
        results = tuple(grid_of.CellResult("", "" if each else "it failed", 0.0, pixels=each) for each in pixels)
        return [axis.parameter for axis in grid_of.Grid(axes, results, {}).without_effect()]

    return {"failed": told("a", "a", "b", ""), "all fail": told("", "", "", ""), "differ": told("a", "b", "c", "")}


def time_left() -> list[str]:
    """What is told when one of two items is done that was a tenth of the work and took ten seconds."""
    return lines_told(("sweep", 0, 2), ("sweep", 1, 2, None, 0.1))


@torch.inference_mode()
def measure() -> dict[str, Any]:
    comfy.utils.set_progress_bar_enabled(False)
    checkpoints = finished(sweep("hashes", Axis("checkpoint", ("", OTHER.name))))
    return {
        "broken": broken_checkpoint(),
        "measured": measured_cells(),
        "kept": kept_models(),
        "half": half_a_lora(),
        "seconds": seconds_of_a_cell(),
        "evaluations": evaluations(),
        "reckoned": {sampler: shots_of.EVALUATIONS.get(sampler, 1) for sampler in batching.BATCHED_SAMPLERS},
        "names": names(),
        "missing": missing_parts(),
        "without effect": without_effect(),
        "left": time_left(),
        "hashes": sorted(checkpoints.about["hashes"]),
        "repeated": sweep("repeated", Axis("seed", (5, 5, 6))).look().report(),
    }


print(json.dumps(measure()))
