"""Runs ComfyUI as a library and prints, as JSON, what a sweep loads, how it batches, and what it counts.

Started by test_engine.py in a process of its own: `engine_program.py COMFYUI ROOT BASE`.
"""

from __future__ import annotations

import importlib
import json
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
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
import comfy.lora
import comfy.model_management
import comfy.samplers
import comfy.utils
import torch
from comfy.patcher_extension import WrappersMP
from pack.figures import Axis
from safetensors.torch import load_file

batching: Any = importlib.import_module("pack.nodes.sweep.batching")
cell_key: Any = importlib.import_module("pack.nodes.sweep.cell_key")
grid_of: Any = importlib.import_module("pack.nodes.sweep.grid")
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


def not_finite() -> dict[str, Any]:
    """Which cells fail where a LoRA holds no numbers, in two sweeps one after the other, and what is said of it; and
    what is said of a VAE that holds none.
    """
    pairs = load_file(write_lora("plain.safetensors", 0))
    nothing = {name: tensor * torch.nan if "lora_up" in name else tensor for name, tensor in pairs.items()}
    axes = Axis("lora_weight", (0.0, 1.0)), Axis("cfg", (2.0, 3.0))
    found: dict[str, Any] = {}
    for mode in ("exact", "fast"):
        grids = [finished(sweep(f"not finite, {mode}", *axes, mode=mode, lora=nothing)) for _ in range(2)]
        found[mode] = [[bool(error) for error in errors(grid)] for grid in grids]
        found[f"{mode}, why"] = errors(grids[1])[-1]
    huge = {name: tensor * 1e37 if "lora_up" in name else tensor for name, tensor in pairs.items()}
    axes = Axis("lora_weight", (0.0, 100.0)), Axis("cfg", (2.0, 3.0))
    grid = finished(sweep("too large", *axes, mode="fast", lora=huge))
    found["measured"] = [(bool(result.error), result.how, result.check and result.check["cell"])
                         for result in grid.results]  # fmt: skip
    weight = next(VAE.first_stage_model.taesd_decoder.parameters())
    before = weight.clone()
    weight.fill_(torch.nan)
    try:
        finished(sweep("no VAE"))
    except ValueError as error:
        found["VAE"] = str(error)
    finally:
        weight.copy_(before)
    return found


def seconds_of_a_cell() -> tuple[float, float]:
    """Of a cell before whose sampling two seconds pass: its own seconds, and all."""
    sweeping = sweep("seconds")
    follow = sweeping.studio.watch
    sweeping.studio.watch = lambda *given: time.sleep(2) or follow(*given)
    began = time.perf_counter()
    grid = finished(sweeping)
    return grid.results[0].seconds, time.perf_counter() - began


@contextmanager
def asked_unet(delay_s: float = 0.0) -> Iterator[list[int]]:
    """Grows by one whenever the U-Net is asked, and lets it take longer."""
    asked: list[int] = []

    def ask(*_: Any) -> None:
        asked.append(1)
        time.sleep(delay_s)

    watching = MODEL.model.diffusion_model.register_forward_pre_hook(ask)
    try:
        yield asked
    finally:
        watching.remove()


def seconds_of_cells_with_a_common_step() -> tuple[int, list[float]]:
    """Evaluations of a U-Net that takes half a second, and the seconds of each of two cells of two steps."""
    with asked_unet(0.5) as asked:
        grid = finished(sweep("common", Axis("cfg", (2.0, 4.0)), shot=replace(SHOT, steps=2)))
    return len(asked), [result.seconds for result in grid.results]


def living_images(mode: str) -> int:
    """How many images of twelve cells live at most whenever one is put on disk, as tensors or as pictures."""
    sweeping = sweep(f"living {mode}", Axis("seed", tuple(range(12))), mode=mode)
    tensors: list[weakref.ref[Any]] = []
    pictures: list[weakref.ref[Any]] = []
    most = 0
    keep, put = sweeping.keep, sweeping.store.keep

    def kept(job: Any, image: Any, *given: Any) -> None:
        tensors.append(weakref.ref(image))
        keep(job, image, *given)

    def written(key: str, picture: Any, *given: Any) -> Any:
        nonlocal most
        pictures.append(weakref.ref(picture))
        most = max(most, *(sum(each() is not None for each in held) for held in (tensors, pictures)))
        return put(key, picture, *given)

    sweeping.keep, sweeping.store.keep = kept, written
    finished(sweeping)
    assert len(tensors) == len(pictures) == 12
    return most


def without_room() -> list[str]:
    """What is told of a fast sweep where there is memory for one cell at a time."""
    reckoned = batching.memory_of
    batching.memory_of = lambda *given, **named: replace(reckoned(*given, **named), at_once=1)
    try:
        grid = finished(sweep("no room", Axis("seed", (1, 2)), mode="fast"))
    finally:
        batching.memory_of = reckoned
    return [str(note) for note in grid.about["notes"]]


def out_of_memory_while_decoding() -> dict[str, Any]:
    """A fast sweep of four cells whose third image does not fit into memory at first: each cell's writings, notes."""
    sweeping = sweep("decoding", Axis("seed", (1, 2, 3, 4)), mode="fast")
    written: list[int] = []
    keep, develop, failed = sweeping.keep, sweeping.studio.develop, []

    def kept(job: Any, *given: Any) -> None:
        written.append(job.shot.seed)
        keep(job, *given)

    def developed(latents: Any, shot: Any) -> Any:
        if shot.seed == 3 and not failed:
            failed.append(shot)
            raise comfy.model_management.OOM_EXCEPTION("no memory")
        return develop(latents, shot)

    sweeping.keep, sweeping.studio.develop = kept, developed
    grid = finished(sweeping)
    return {"written": sorted(written), "failed": len(grid.failed()), "notes": list(grid.about["notes"])}


def evaluations() -> dict[str, float]:
    """How often each sampler asks the model in a step, on average over many of them, by counting.

    How often does not hang on the answer: it is half of what is asked, and costs nothing.
    """
    found = {}
    for sampler in sorted(batching.BATCHED_SAMPLERS):
        asked: list[int] = []
        model = MODEL.clone()

        def ask(_: Any, noisy: torch.Tensor, *__: Any, asked: list[int] = asked, **___: Any) -> torch.Tensor:
            asked.append(1)
            return noisy / 2

        model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "count", ask)
        studio = sampling.Studio(sampling.Subject(model, CLIP, VAE))
        studio.expose(replace(SHOT, sampler=sampler, steps=6, cfg=1.0, width=32, height=32))
        found[sampler] = len(asked) / 6
    return found


def first_steps() -> dict[str, tuple[int, bool]]:
    """How often the U-Net computes for several shots of one studio, and whether each is what it is on its own."""
    lora = load_file(write_lora("plain.safetensors", 0))
    patched, inside = MODEL.clone(), CLIP.encode_from_tokens_scheduled(CLIP.tokenize("moon"))
    patched.set_model_output_block_patch(lambda hidden, skipped, options: (hidden, skipped))
    plain = sampling.Subject(MODEL, CLIP, VAE, lora)
    area = replace(plain, positive=[[inside[0][0], {**inside[0][1], "strength": 0.5}]])
    start = {"samples": torch.ones(1, 4, 8, 8), "noise_mask": torch.eye(64)[None]}
    masked, of_text = replace(plain, latent=start), replace(plain, lora=lora | text_lora())
    found = {}
    for name, subject, changes in (
        ("CFG scale", plain, [{"cfg": 2.0}, {"cfg": 4.0}, {"cfg": 6.0}]),
        ("steps", plain, [{"steps": 1}, {"steps": 2}, {"steps": 3}]),
        ("sampler", plain, [{"sampler": "euler_ancestral"}, {"sampler": "dpmpp_2m"}, {"sampler": "ddim"}]),
        ("no guidance", plain, [{"cfg": 1.0}, {"cfg": 3.0}]),
        ("denoise", plain, [{"denoise": 1.0}, {"denoise": 0.5}]),
        ("no guidance, CFG++", plain, [{"sampler": "euler_cfg_pp", "cfg": 1.0}, {"sampler": "euler_cfg_pp"}]),
        ("mask", masked, [{"sampler": "euler"}, {"sampler": "ddim"}]),
        ("scheduler", plain, [{"scheduler": "normal"}, {"scheduler": "beta"}]),
        ("steps and denoise", plain, [{"steps": n, "denoise": d} for n in (2, 3) for d in (1.0, 0.5)]),
        ("seed", plain, [{"seed": 2}, {"seed": 3}]),
        ("LoRA weight", plain, [{"lora_weight_model": 0.5}, {"lora_weight_model": 0.0}]),
        ("prompt", plain, [{"prompt": "moon"}, {"prompt": "sea"}]),
        ("negative prompt", plain, [{"negative": ""}, {"negative": "sea"}]),
        ("weight of the text encoders", of_text, [{"lora_weight_clip": 0.5}, {"lora_weight_clip": 1.0}]),
        ("size", plain, [{"width": 64}, {"width": 96}]),
        ("changed sampling", replace(plain, model=patched), [{"cfg": 2.0}, {"cfg": 4.0}]),
        ("wired area", area, [{"cfg": 2.0}, {"cfg": 4.0}]),
    ):
        studio = sampling.Studio(subject)
        shots = [replace(SHOT, **{"steps": 2, **change}) for change in changes]
        with asked_unet() as asked:
            together = [studio.expose(shot) for shot in shots]
        count = len(asked)
        alone = [by_the_host(studio, shot) for shot in shots]
        found[name] = count, all(map(torch.equal, together, alone))
    return found


def by_the_host(studio: Any, shot: Any) -> torch.Tensor:
    """What KSampler gives with the studio's MODEL and words, without what the studio shares."""
    positive, negative = studio.conditioning(shot)
    given = shot.seed, shot.steps, shot.cfg, shot.sampler, shot.scheduler, positive, negative, studio.latent(shot)
    (latent,) = host_nodes.common_ksampler(studio.model(shot), *given, denoise=shot.denoise)
    return latent["samples"]


def text_lora() -> dict[str, torch.Tensor]:
    """A pair for one projection of CLIP-L."""
    name = "lora_te1_text_model_encoder_layers_0_self_attn_q_proj"
    key = comfy.lora.model_lora_keys_clip(CLIP.cond_stage_model, {})[name]
    weight = CLIP.cond_stage_model.state_dict()[key]
    up = torch.randn(weight.shape[0], 2, generator=torch.Generator().manual_seed(5))
    return {f"{name}.lora_down.weight": torch.ones(2, weight.shape[1]), f"{name}.lora_up.weight": up * 0.05}


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


def failures() -> list[str]:
    """What is told of a grid of LoRA files and CFG scales, of which a file, a scale of two files and two cells fail."""
    files = Axis("lora_file", tuple(f"{name}.safetensors" for name in "abcd"))
    scales = Axis("cfg", tuple(map(float, range(1, 101))))
    reasons = {(0, at): "No file." for at in range(100)} | {
        (1, 0): "No.",
        (2, 0): "No.",
        (1, 2): "Odd.",
        (2, 3): "Odd.",
    }
    results = tuple(grid_of.CellResult("", reasons.get((file, at), ""), 0.0) for file in range(4) for at in range(100))
    return grid_of.Grid((files, scales), results, {}).failures()


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
        "not finite": not_finite(),
        "seconds": seconds_of_a_cell(),
        "common step": seconds_of_cells_with_a_common_step(),
        "living": {mode: living_images(mode) for mode in ("exact", "fast")},
        "no room": without_room(),
        "decoding": out_of_memory_while_decoding(),
        "evaluations": evaluations(),
        "reckoned": {sampler: shots_of.EVALUATIONS.get(sampler, 1) for sampler in batching.BATCHED_SAMPLERS},
        "first steps": first_steps(),
        "names": names(),
        "missing": missing_parts(),
        "without effect": without_effect(),
        "failures": failures(),
        "left": time_left(),
        "hashes": sorted(checkpoints.about["hashes"]),
        "repeated": sweep("repeated", Axis("seed", (5, 5, 6))).look().report(),
    }


print(json.dumps(measure()))
