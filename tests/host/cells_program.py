"""Runs ComfyUI as a library and prints, as JSON, what sweeps do when something under them changes or fails.

Started by test_cells.py in a process of its own: `cells_program.py COMFYUI ROOT BASE`.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from comfy_library import BASE
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

import comfy.model_base  # isort: skip - ComfyUI has begun with the import above
import comfy.utils
import torch
from comfy.cli_args import PerformanceFeature, args
from pack.figures import Axis, cells, execution_order
from safetensors.torch import load_file, save_file

batching: Any = importlib.import_module("pack.nodes.sweep.batching")
cell_key: Any = importlib.import_module("pack.nodes.sweep.cell_key")
denoising: Any = importlib.import_module("pack.nodes.sweep.denoising")


def replaced_files() -> dict[str, list[str]]:
    """Every first cell is of a file that stays, every second of one that is replaced before its turn comes."""
    write_lora("stays.safetensors", 0)
    changed = write_lora("changed.safetensors", 1)
    loras = sweep("replaced", Axis("lora_file", ("stays.safetensors", "changed.safetensors")))
    loras.look()
    write_lora("changed.safetensors", 2)
    found = {"lora": errors(loras.run(batching.run_fast))}
    changed.write_bytes(b"no LoRA at all")
    found["unreadable lora"] = errors(
        finished(sweep("unreadable", Axis("lora_file", ("stays.safetensors", "changed.safetensors"))))
    )
    checkpoints = sweep("replaced", Axis("checkpoint", ("", "other.safetensors")))
    checkpoints.look()
    weights = load_file(OTHER)
    first = next(name for name in sorted(weights) if name.endswith("to_q.weight"))
    save_file({**weights, first: weights[first] * 1.5}, OTHER)
    found["checkpoint"] = errors(checkpoints.run(batching.run_fast))
    texts = sweep("replaced", Axis("prompt", ("moon", "moon embedding:none")))
    texts.look()
    (FOLDERS["embeddings"] / "none.txt").write_text("new")
    found["embedding"] = errors(texts.run(batching.run_fast))
    return found


def keys_that_differ() -> dict[str, bool]:
    """Whether a change of something that pixels depend on gives a cell another name."""
    subject = sampling.Subject(MODEL, CLIP, VAE)
    own = cell_key.Keys(subject).of(SHOT, "exact")
    found = {"nothing": cell_key.Keys(subject).of(SHOT, "exact") != own}
    for name, value in {
        "fast": {PerformanceFeature.Fp16Accumulation}, "deterministic": True, "force_channels_last": True,
        "force_upcast_attention": True, "dont_upcast_attention": True, "fp16_intermediates": True,
        "use_split_cross_attention": True,
    }.items():  # fmt: skip
        before = getattr(args, name)
        setattr(args, name, value)
        found[name] = cell_key.Keys(subject).of(SHOT, "exact") != own
        setattr(args, name, before)
    args.fast = {PerformanceFeature.AutoTune}
    one = cell_key.switches()
    args.fast = {PerformanceFeature.CublasOps}
    found["which of fast"] = cell_key.switches() != one
    args.fast = set()
    before = MODEL.model.model_type
    MODEL.model.model_type = comfy.model_base.ModelType.V_PREDICTION
    found["prediction"] = cell_key.Keys(subject).of(SHOT, "exact") != own
    MODEL.model.model_type = before
    return found


def damaged_cells() -> list[str]:
    """Sources of four cells of which one was cut off and one has a wrong byte."""
    axis = Axis("seed", (1, 2, 3, 4))
    first = finished(sweep("damaged", axis))
    cut, wrong = (Path(result.path) for result in first.results[:2])
    cut.write_bytes(cut.read_bytes()[:-200])
    data = bytearray(wrong.read_bytes())
    data[-100] ^= 255
    wrong.write_bytes(data)
    again = finished(sweep("damaged", axis))
    assert [result.pixels for result in again.results] == [result.pixels for result in first.results]
    return [result.source for result in again.results]


def half_written() -> list[str]:
    """What a sweep leaves of two unfinished files: one is two hours old, the other is written now."""
    folder = BASE / "half written" / "ab"
    folder.mkdir(parents=True)
    for name, age in ((".old.png.1a.part", 7200), (".new.png.2b.part", 10)):
        (folder / name).touch()
        os.utime(folder / name, (time.time() - age,) * 2)
    finished(sweep("half written"))
    return [path.name for path in folder.glob(".*")]


def full_disks() -> dict[str, Any]:
    """How many cells are sampled before a sweep whose cells cannot be written ends, and what it says."""
    found: dict[str, Any] = {}
    (BASE / "file").write_text("no folder")
    for name, store, limit, mode in (
        ("no folder", "file/cells", None, "exact"),
        ("no folder, fast", "file/cells", None, "fast"),
        ("full", "full", 5000, "exact"),
        ("full, fast", "full", 5000, "fast"),
    ):
        sweeping = sweep(store, Axis("seed", tuple(range(40, 46))), mode=mode)
        sampled: list[int] = []
        follow = sweeping.studio.watch
        sweeping.studio.watch = lambda *given, f=follow, s=sampled: s.append(1) or f(*given)
        sweeping.look()
        _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        if limit:
            # the probe's 4096 bytes go through, a picture does not
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))
        try:
            sweeping.run(batching.run_fast)
            said = "it went through"
        except OSError as error:
            said = str(error)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        found[name] = [len(sampled), said]
    return found


def fast_checks() -> dict[str, Any]:
    axes = Axis("cfg", (1.0, 4.0, 8.0)), Axis("sampler", ("euler", "dpmpp_2m")), Axis("seed", (5, 6))
    fresh = finished(sweep("fast", *axes, mode="fast"))
    kept = finished(sweep("fast", *axes, mode="fast"))
    return {
        "cells": sorted({result.check["cell"] for result in fresh.results}),
        "samplers": sorted({result.check["sampler"] for result in fresh.results}),
        "own sampler": all(result.check["sampler"] == result.parameters["sampler"] for result in fresh.results),
        "fresh": fresh.about["fast_check"],
        "sources": sorted({result.source for result in kept.results}),
        "kept": kept.about["fast_check"],
    }


def bar(mode: str) -> list[tuple[float, float]]:
    """What a sweep of six cells shows on the node's bar: (done, of)."""
    shown: list[tuple[float, float]] = []
    comfy.utils.set_progress_bar_global_hook(lambda done, of, *more, **named: shown.append((done, of)))
    try:
        axes = Axis("cfg", (1.0, 4.0)), Axis("seed", (1, 2, 3))
        finished(sweep(f"bar {mode}", *axes, mode=mode, shot=replace(SHOT, steps=3)))
    finally:
        comfy.utils.set_progress_bar_global_hook(None)
    return shown


def time_left() -> list[str]:
    """What is told after 2 of 10 items of 10 s each, for clocks that start with nothing done and with one done."""
    told = [lines_told(*(("items", done, 10) for done in range(first, 4))) for first in (0, 1)]
    return [line for lines in told for line in lines if "3/10" in line]


class Encoded:
    """Counts the texts that are encoded."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def check_text(self, text: str) -> None:
        self.texts.append(text)


def texts_encoded() -> tuple[int, int]:
    """How often texts are encoded for 90 prompts under two U-Net weights, and how many there are."""
    axes = Axis("prompt", tuple(f"moon {number}" for number in range(90))), Axis("lora_weight_model", (0.0, 1.0))
    lora = load_file(FOLDERS["loras"] / "stays.safetensors")
    studio = sampling.Studio(sampling.Subject(MODEL, CLIP, VAE, lora))
    studio.seal = Encoded()
    for cell in execution_order(cells(axes)):
        studio.conditioning(shots_of.shot_of(SHOT, cell, axes))
    return len(studio.seal.texts), len(set(studio.seal.texts))


def strip_without_noise() -> str:
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    try:
        denoising.Run(MODEL, [], [], latent, VAE, 0, 4, 3.0, "euler", "normal", 0.0)
    except ValueError as error:
        return str(error)
    return "it went through"


def clip_score() -> dict[str, Any]:
    """Scores by a tiny random vision model of the host's own class, beside what its parts give; and a refusal."""
    import comfy.clip_vision

    clip_score: Any = importlib.import_module("pack.nodes.figure.clip_score")
    _, pooled = CLIP.encode_from_tokens(CLIP.tokenize("moon"), return_pooled=True)
    config = {
        "hidden_act": "gelu", "hidden_size": 32, "image_size": 28, "intermediate_size": 64, "layer_norm_eps": 1e-5,
        "model_type": "clip_vision_model", "num_attention_heads": 2, "num_channels": 3, "num_hidden_layers": 3,
        "patch_size": 14, "projection_dim": pooled.shape[-1],
    }  # fmt: skip

    def vision(**changes: int) -> Any:
        torch.manual_seed(0)
        model = comfy.clip_vision.ClipVisionModel({**config, **changes})
        model.load_sd({name: torch.randn_like(value) * 0.1 for name, value in model.get_sd().items()
                       if value.is_floating_point()})  # fmt: skip
        return model

    images: Any = importlib.import_module("pack.nodes.images")
    grid = finished(sweep("scores", Axis("prompt", ("moon", "sea")), Axis("seed", (1, 2))))
    eye = vision()
    first = grid.image(cells(grid.axes)[0])
    apart = torch.nn.functional.cosine_similarity(
        eye.encode_image(images.to_tensor(first))["image_embeds"].flatten(), pooled.flatten(), dim=0
    )
    try:
        clip_score.clip_scores(grid, vision(projection_dim=2 * pooled.shape[-1]), CLIP)
        refused = "it went through"
    except ValueError as error:
        refused = str(error)
    return {"scores": list(clip_score.clip_scores(grid, eye, CLIP).values()), "first": float(apart), "refused": refused}


@torch.inference_mode()
def measure() -> dict[str, Any]:
    comfy.utils.set_progress_bar_enabled(False)
    return {
        "replaced": replaced_files(),
        "keys": keys_that_differ(),
        "damaged": damaged_cells(),
        "half written": half_written(),
        "disks": full_disks(),
        "checks": fast_checks(),
        "bars": {mode: bar(mode) for mode in ("exact", "fast")},
        "left": time_left(),
        "texts": texts_encoded(),
        "strip": strip_without_noise(),
        "clip": clip_score(),
        "memory": sweep("memory", Axis("seed", (1, 2))).look().report(),
    }


print(json.dumps(measure()))
