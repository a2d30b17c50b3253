"""Every cell of a sweep is the host's own KSampler result, pixel for pixel, and is computed once."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from host_graphs import node, picture, sweep, training
from host_server import Host, StartHost
from PIL import Image
from safetensors.torch import load_file, save_file

import dev

Axes = list[tuple[str, str]]


def pixels(path: str | Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def cells_of(host: Host) -> dict[str, np.ndarray]:
    """The cells of the newest sweep by index, such as '0-1'."""
    return {"-".join(map(str, cell["index"])): pixels(cell["path"]) for cell in host.newest_sweep()["cells"]}


def sources(host: Host) -> Counter[str]:
    return Counter(cell["source"] for cell in host.newest_sweep()["cells"])


@pytest.fixture(scope="module")
def lora(host: Host) -> str:
    host.run(training(output_name="for_sweeps", steps=3))
    return "for_sweeps.safetensors"


@pytest.mark.parametrize(
    ("sampler", "scheduler", "seeds"),
    [
        ("euler_ancestral", "normal", (4, 5)),
        ("dpmpp_2m", "karras", (5,)),
        ("dpmpp_sde", "karras", (5,)),
        ("dpmpp_2m_sde", "normal", (5,)),
    ],
)
def test_cells_equal_a_plain_graph(host: Host, lora: str, sampler: str, scheduler: str, seeds: tuple[int, ...]) -> None:
    of_seed = ("seed", ", ".join(map(str, seeds)))
    axes = [("CFG scale", "1, 6.5"), ("LoRA weight", "0, 0.8"), ("sampling steps", "2, 3"), of_seed]
    host.run(sweep(lora, axes, sampler=sampler, scheduler=scheduler))
    cells = cells_of(host)
    assert len(cells) == 8 * len(seeds)
    last = len(seeds) - 1
    for place, cfg, weight, steps, seed in [
        ("0-0-0-0", 1.0, 0.0, 2, seeds[0]),
        (f"0-1-0-{last}", 1.0, 0.8, 2, seeds[-1]),
        ("1-1-0-0", 6.5, 0.8, 2, seeds[0]),
        (f"1-1-1-{last}", 6.5, 0.8, 3, seeds[-1]),
    ]:
        plain = picture(
            lora=lora, weight=weight, cfg=cfg, steps=steps, seed=seed, sampler_name=sampler, scheduler=scheduler
        )
        (path,) = host.outputs(host.run(plain))
        assert np.array_equal(cells[place], pixels(path)), place


def test_a_figure_has_its_cells_and_carries_the_graph(host: Host) -> None:
    host.run(training(output_name="for_figure"))
    graph = sweep("for_figure.safetensors", [("LoRA weight", "0, 1"), ("seed", "1, 2, 3")])
    (path,) = host.outputs(host.run(graph))
    figure = Image.open(path)
    assert figure.width > 2 * 64
    assert figure.height > 3 * 64
    assert '"MjesecSweep"' in figure.text["prompt"]
    whole = np.asarray(figure.convert("RGB"))
    for cell in cells_of(host).values():
        rows = np.flatnonzero((whole[:, :, None] == cell[0, 0]).all(-1).any(1))
        found = any(
            np.array_equal(whole[y : y + 64, x : x + 64], cell)
            for y in rows
            for x in np.flatnonzero((whole[y] == cell[0, 0]).all(-1))
        )
        assert found, "a cell's pixels are not in the figure as they were"


@pytest.mark.parametrize(
    ("first_seed", "change", "axes", "computed", "on_disk"),
    [
        (100, {}, None, 0, 4),
        (110, {}, [("CFG scale", "2, 3, 4"), ("seed", "110, 111")], 2, 4),
        (120, {}, [("CFG scale", "2, 3"), ("seed", "120, 129")], 2, 2),
        (130, {}, [("seed", "131, 130"), ("CFG scale", "3")], 0, 2),
        (140, {"prompt": "a moon over the sea"}, None, 4, 0),
        (150, {"negative": "sun"}, None, 4, 0),
        (160, {"lora_weight": 0.5}, None, 4, 0),
        (170, {"sampler": "euler"}, None, 4, 0),
        (180, {"denoise": 0.9, "steps": 2}, None, 4, 0),
    ],
    ids=[
        "nothing changed", "an axis is longer", "one value is another", "turned and cut", "another prompt",
        "another negative prompt", "another weight", "another sampler", "another denoise",
    ],
)  # fmt: skip
def test_only_what_is_new_is_computed(
    host: Host, lora: str, first_seed: int, change: dict[str, Any], axes: Axes | None, computed: int, on_disk: int
) -> None:
    usual = [("CFG scale", "2, 3"), ("seed", f"{first_seed}, {first_seed + 1}")]
    host.run(sweep(lora, usual, steps=1))
    host.free()
    host.run(sweep(lora, axes or usual, **{"steps": 1, **change}))
    assert sources(host) == +Counter(computed=computed, cached=on_disk)


def test_another_model_under_the_same_words_is_computed_anew(host: Host, lora: str) -> None:
    axes = [("seed", "41, 42")]
    host.run(sweep(lora, axes, steps=1))
    graph = sweep(lora, axes, steps=1)
    graph["other"] = node("FreeU_V2", model=["ckpt", 0], b1=1.3, b2=1.4, s1=0.9, s2=0.2)
    graph["sweep"]["inputs"]["model"] = ["other", 0]
    host.run(graph)
    assert sources(host) == {"computed": 2}
    assert any("until ComfyUI restarts" in note for note in host.newest_sweep()["notes"])
    graph["other"] = node("ModelSamplingDiscrete", model=["ckpt", 0], sampling="v_prediction", zsnr=False)
    host.run(graph)
    assert sources(host) == {"computed": 2}
    graph["sweep"]["inputs"]["model"] = ["ckpt", 0]
    host.run(graph)
    assert sources(host) == {"cached": 2}


def test_a_killed_sweep_goes_on_where_it_was(start_host: StartHost, tmp_path: Path) -> None:
    axes = [("CFG scale", "1-5"), ("seed", "1-5")]
    with start_host() as host:
        host.run(training(output_name="for_kill", steps=1))
        graph = sweep("for_kill.safetensors", axes, steps=1)
        host.queue(graph)
        store = host.output / "mjesec" / "cells"
        deadline = time.monotonic() + 300
        while len(list(store.rglob("*.png"))) < 9 and time.monotonic() < deadline:
            time.sleep(0.02)
        os.killpg(host.pid, signal.SIGKILL)
        host.stop()
        done = len(list(store.rglob("*.png")))
        assert 9 <= done < 25
        host.start()
        (path,) = host.outputs(host.run(graph))
        assert sources(host) == {"cached": done, "computed": 25 - done}
        resumed = path.read_bytes()
        kept = {cell["key"]: cell["pixels"] for cell in host.newest_sweep()["cells"]}
        # the same without an interruption
        for cell in store.rglob("*.png"):
            cell.unlink()
        path.unlink()
        host.free()
        (path,) = host.outputs(host.run(graph))
        assert sources(host) == {"computed": 25}
        assert {cell["key"]: cell["pixels"] for cell in host.newest_sweep()["cells"]} == kept
        assert path.read_bytes() == resumed


def test_a_failed_cell_is_drawn_as_failed_and_tried_again(host: Host, lora: str) -> None:
    other = host.output / "loras" / "broken.safetensors"
    save_file({"lora_unet_nowhere.lora_up.weight": torch.zeros(8, 4)}, other)
    graph = sweep("(lora input)", [("LoRA file", f"{lora}, broken.safetensors")], steps=1, seed=77)
    entry = host.run(graph)
    assert "1 failed:\nLoRA broken (1 cell): None of the LoRA's 1 modules fits this MODEL" in report_of(entry)
    assert host.outputs(entry), "the figure is drawn all the same"
    host.run(graph)
    assert sources(host) == {"cached": 1, "computed": 1}, "the failed cell is tried at every queueing"
    other.write_bytes((host.output / "loras" / lora).read_bytes())
    assert "failed" not in report_of(host.run(graph))
    assert sources(host) == {"cached": 2}, "the same tensors under another name are the same cell"


def report_of(entry: dict[str, Any]) -> str:
    return entry["outputs"]["sweep"]["text"][0]


def test_fast_cells_are_the_exact_ones_but_for_rounding(host: Host, lora: str) -> None:
    axes = [("CFG scale", "1, 4"), ("LoRA weight", "0, 0.5, 1")]
    values = {"steps": 3, "seed": 51}
    host.run(sweep(lora, axes, **values))
    exact = cells_of(host)
    report = report_of(host.run(sweep(lora, axes, mode="fast", **values)))
    assert sources(host) == {"cached": 6}, "fast takes exact cells that are there"
    report = report_of(host.run(sweep(lora, axes, mode="fast", **{**values, "seed": 52})))
    assert "Fast against exact on one cell" in report
    manifest = host.newest_sweep()
    assert {cell["how"] for cell in manifest["cells"]} == {"fast"}
    assert manifest["fast_check"]["relative_latent_error"] < 1e-3
    fast = cells_of(host)
    dry = report_of(host.run(sweep(lora, axes, mode="dry run", **{**values, "seed": 52})))
    assert "0 of the cells are on disk, 6 to compute" in dry
    assert "In fast mode: 6 of the cells are on disk, 0 to compute." in dry
    host.run(sweep(lora, axes, **{**values, "seed": 52}))
    assert sources(host) == {"computed": 6}, "exact never takes fast cells"
    for place, cell in cells_of(host).items():
        assert np.abs(cell.astype(int) - fast[place].astype(int)).max() <= 2, place
    host.run(sweep(lora, axes[1:], **{**values, "prompt": "moon and sea", "mode": "fast"}))
    (path,) = host.outputs(host.run(picture(lora=lora, weight=0.5, cfg=4.0, steps=3, seed=51)))
    assert np.array_equal(exact["1-1"], pixels(path)), "the model is as it was"


def test_what_cannot_be_batched_is_computed_exactly_and_said(host: Host, lora: str) -> None:
    graph = sweep(lora, [("CFG scale", "3, 4")], mode="fast", sampler="dpm_adaptive", seed=61)
    assert "Computed exactly and not in batches: the sampler dpm_adaptive" in report_of(host.run(graph))
    assert {cell["how"] for cell in host.newest_sweep()["cells"]} == {"exact"}
    graph = sweep(lora, [("sampler", "euler, heun")], mode="fast", seed=61, steps=1)
    assert "not in batches: 2 of the cells, with which no other shares steps" in report_of(host.run(graph))


@pytest.mark.parametrize(("mode", "steps"), [("exact", 2), ("fast", 8)])
def test_an_interrupted_sweep_keeps_what_it_has_and_goes_on(host: Host, lora: str, mode: str, steps: int) -> None:
    axes = [("CFG scale", "2-6"), ("seed", "301-304")]
    graph = sweep(lora, axes, mode=mode, steps=steps)
    store = host.output / "mjesec" / "cells"
    before = len(list(store.rglob("*.png")))
    prompt = host.queue(graph)
    deadline = time.monotonic() + 120
    while len(list(store.rglob("*.png"))) <= before and time.monotonic() < deadline:
        time.sleep(0.02)
    host.interrupt(prompt)
    assert "interrupted" in (dev.failure_of(host.wait(prompt, 60)) or "")
    done = len(list(store.rglob("*.png"))) - before
    assert 1 <= done < 20
    host.run(graph)
    assert sources(host) == {"cached": done, "computed": 20 - done}


def test_a_dry_run_counts_and_computes_nothing(host: Host, lora: str) -> None:
    graph = sweep(lora, [("CFG scale", "3, 4"), ("LoRA weight", "0, 1")], mode="dry run", seed=62, steps=5)
    entry = host.run(graph)
    report = report_of(entry)
    assert "Dry run: nothing was computed." in report
    assert "4 cells, 20 sampling steps; 0 of the cells are on disk, 4 to compute with 20 steps." in report
    assert "as one figure" in report
    assert "figure" not in entry["outputs"]
    graph["sweep"]["inputs"]["most_cells"] = 3
    assert "The axes make 4 cells, more than the 3 that most_cells allows" in report_of(host.run(graph))
    graph["sweep"]["inputs"] |= {"mode": "exact", "most_cells": 400}
    host.run(graph)
    graph["sweep"]["inputs"]["mode"] = "dry run"
    assert "Time: nothing to compute." in report_of(host.run(graph))


def test_a_sweep_without_a_lora_tells_of_no_weight(host: Host) -> None:
    graph = sweep("(lora input)", [("CFG scale", "3, 4")], seed=63, steps=1)
    assert "To load: 0 LoRA strengths, 0 checkpoints." in report_of(host.run(graph))
    told = host.newest_sweep()
    for parameters in (told["parameters"], *(cell["parameters"] for cell in told["cells"])):
        assert parameters["lora_weight_model"] == parameters["lora_weight_clip"] == 0


def test_an_axis_without_effect_is_pointed_out(host: Host, lora: str) -> None:
    # with one step to the end, nothing is left that an eta or a second step could show
    graph = sweep("(lora input)", [("prompt: search and replace", "moon, sun"), ("CFG scale", "2, 3")], steps=1)
    graph["sweep"]["inputs"]["prompt"] = "moon"
    assert "changed nothing" not in report_of(host.run(graph))
    lora_file = host.output / "loras" / "zero.safetensors"
    names = load_file(host.output / "loras" / lora)
    save_file({key: value * 0 if "lora_up" in key else value for key, value in names.items()}, lora_file)
    host.get("/object_info/MjesecSweep")
    report = report_of(host.run(sweep("zero.safetensors", [("LoRA weight", "0, 1"), ("seed", "1, 2")], steps=1)))
    assert "Warning: LoRA weight changed nothing" in report
    assert "Warning: Seed" not in report


@pytest.fixture(scope="module")
def others(host: Host, lora: str) -> dict[str, Path]:
    """A LoRA and a checkpoint, each unlike the one that the tests use."""
    files = {"lora": host.output / "loras" / "other_lora.safetensors"}
    files["checkpoint"] = host.base / "models" / "checkpoints" / "other_sdxl.safetensors"
    files["checkpoint"].parent.mkdir(parents=True, exist_ok=True)
    first = {"lora": host.output / "loras" / lora, "checkpoint": dev.TINY_SDXL}
    for kind, path in files.items():
        tensors = load_file(first[kind]).items()
        save_file({name: each * 1.03 if each.is_floating_point() else each for name, each in tensors}, path)
    return files


@pytest.mark.parametrize(
    ("axis", "plain"),
    [
        (("sampler", "euler, heun"), {"sampler_name": "heun"}),
        (("scheduler", "normal, simple"), {"scheduler": "simple"}),
        (("denoise", "1, 0.6"), {"denoise": 0.6}),
        (("size", "64x64, 64x128"), {"height": 128}),
        (("negative prompt", "sun, sea"), {"negative": "sea"}),
        (("prompt", '"moon, sea"\nmoon over sea'), {"prompt": "moon over sea"}),
        (("prompt: search and replace", "moon, sun"), {"prompt": "sun"}),
        (("LoRA weight, U-Net", "0, 0.5"), {"strength_model": 0.5}),
        (("LoRA weight, text encoders", "0, 0.5"), {"strength_clip": 0.5}),
        (("width", "64, 96"), {"width": 96}),
        (("height", "64, 96"), {"height": 96}),
        (("LoRA file", "for_sweeps.safetensors, other_lora.safetensors"), {"lora_name": "other_lora.safetensors"}),
        (("checkpoint", "tiny_sdxl.safetensors, other_sdxl.safetensors"), {"ckpt_name": "other_sdxl.safetensors"}),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
@pytest.mark.usefixtures("others")
def test_every_axis_sets_what_it_names(host: Host, lora: str, axis: tuple[str, str], plain: dict[str, Any]) -> None:
    host.run(sweep(lora, [axis], sampler="euler", lora_weight=1.0, steps=2))
    first, cell = (cells_of(host)[place] for place in ("0", "1"))
    assert not np.array_equal(first, cell)
    graph = picture(lora=lora, sampler_name="euler", steps=2)
    for name, value in plain.items():
        places = {
            "height": "empty",
            "width": "empty",
            "lora_name": "lora",
            "ckpt_name": "ckpt",
            "negative": "no",
            "prompt": "yes",
            "strength_model": "lora",
            "strength_clip": "lora",
        }
        key = "text" if name in ("negative", "prompt") else name
        graph[places.get(name, "sample")]["inputs"][key] = value
    (path,) = host.outputs(host.run(graph))
    assert np.array_equal(cell, pixels(path))


def test_wired_conditionings_and_latents_take_the_place_of_words_and_sizes(host: Host, lora: str) -> None:
    graph = picture(sampler_name="euler", denoise=0.6)
    graph["noise"] = node("EmptyImage", width=64, height=64, batch_size=1, color=0x4466AA)
    graph["start"] = node("VAEEncode", pixels=["noise", 0], vae=["ckpt", 2])
    graph["mask"] = node("SolidMask", value=0.5, width=64, height=64)
    graph["inpaint"] = node("SetLatentNoiseMask", samples=["start", 0], mask=["mask", 0])
    graph["sample"]["inputs"]["latent_image"] = ["inpaint", 0]
    graph |= {
        key: value
        for key, value in sweep(
            "(lora input)", [("CFG scale", "5")], sampler="euler", denoise=0.6, prompt="else"
        ).items()
        if key != "ckpt"
    }
    graph["sweep"]["inputs"] |= {
        "positive_conditioning": ["yes", 0], "negative_conditioning": ["no", 0], "latent": ["inpaint", 0],
    }  # fmt: skip
    entry = host.run(graph)
    saved = host.outputs({"outputs": {"save": entry["outputs"]["save"]}})
    assert np.array_equal(cells_of(host)["0"], pixels(saved[0]))


def test_a_weight_that_does_not_reach_wired_words_is_reported(host: Host, lora: str) -> None:
    graph = sweep(lora, [("LoRA weight", "0, 1")], steps=1, seed=81)
    graph["words"] = node("CLIPTextEncode", clip=["ckpt", 1], text="moon")
    graph["sweep"]["inputs"]["positive_conditioning"] = ["words", 0]
    assert "The LoRA reaches the U-Net and the other text alone: positive_conditioning" in report_of(host.run(graph))
    graph["sweep"]["inputs"]["negative_conditioning"] = ["words", 0]
    assert "The LoRA reaches the U-Net alone" in report_of(host.run(graph))
    plain = sweep(lora, [("LoRA weight", "0, 1")], steps=1, seed=81)
    assert "The LoRA reaches" not in report_of(host.run(plain))


def test_an_embedding_that_was_replaced_is_noticed(host: Host) -> None:
    graph = sweep("(lora input)", [("seed", "91, 92")], steps=1, prompt="moon, embedding:noted")
    folder = host.base / "models" / "embeddings"
    folder.mkdir(parents=True, exist_ok=True)
    host.run(graph)
    (folder / "aside.txt").write_text("another")
    host.run(graph)
    assert sources(host) == {"computed": 2}
    host.run(graph)
    host.free()
    host.run(graph)
    assert sources(host) == {"cached": 2}


def test_a_hundred_million_cells_cost_a_sentence(host: Host) -> None:
    axes = [("CFG scale", "0-99.99[10000]"), ("seed", "1-10000")]
    graph = sweep("(lora input)", axes, mode="dry run")
    assert "The axes make 100000000 cells" in report_of(host.run(graph))
    graph["sweep"]["inputs"]["mode"] = "exact"
    with pytest.raises(dev.PromptFailure, match="The axes make 100000000 cells, more than the 400"):
        host.run(graph)


def test_an_axis_of_files_beside_a_connected_lora_is_refused(host: Host, lora: str) -> None:
    graph = sweep("(lora input)", [("LoRA file", lora)])
    graph |= {name: each for name, each in training(output_name="beside", steps=1).items() if name != "ckpt"}
    graph["sweep"]["inputs"]["lora"] = ["train", 0]
    with pytest.raises(dev.PromptFailure, match="An axis varies LoRA, but lora is connected and goes before it"):
        host.run(graph)


def test_a_checkpoint_without_text_encoders_is_refused_in_a_sentence(host: Host) -> None:
    folder = host.base / "models" / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    state = load_file(dev.TINY_SDXL)
    bare = {name: tensor for name, tensor in state.items() if not name.startswith("conditioner.")}
    save_file(bare, folder / "no_words.safetensors")
    graph = sweep("(lora input)", [("CFG scale", "1, 2")])
    graph["ckpt"]["inputs"]["ckpt_name"] = "no_words.safetensors"
    with pytest.raises(dev.PromptFailure, match="There is no CLIP: the checkpoint has no text encoders"):
        host.run(graph)
    report = report_of(host.run(sweep("(lora input)", [("checkpoint", "tiny_sdxl.safetensors, no_words.safetensors")])))
    assert "Checkpoint no_words (1 cell): The checkpoint 'no_words.safetensors' has no text encoders" in report
    assert "Each checkpoint of the axis comes with its own text encoders and VAE" in report


def test_both_weights_beside_one_of_them_are_refused(host: Host, lora: str) -> None:
    graph = sweep(lora, [("LoRA weight", "0, 1"), ("LoRA weight, U-Net", "0, 1")])
    with pytest.raises(dev.PromptFailure, match="U-Net and text encoders together and another one of them alone"):
        host.run(graph)


def test_all_epochs_of_a_run_are_one_axis(host: Host) -> None:
    host.run(training(output_name="epochs", steps=6, save_every_epochs=1))
    entry = host.run(sweep("(lora input)", [("LoRA file: all epochs of a run", "epochs")], steps=1))
    assert entry["outputs"]["sweep"]["text"]
    (axis,) = host.newest_sweep()["axes"]
    assert axis["values"] == ["epochs-000001.safetensors", "epochs.safetensors"]
    assert axis["texts"] == ["1", "2"]


def test_all_that_a_run_saved_by_steps_is_one_axis(host: Host) -> None:
    graph = training(output_name="stepped", steps=6, save_every_epochs=1)
    graph["saving"] = node(
        "MjesecCheckpointOptions", settings=["set", 0], validate_every=0, keep_best=False, patience=0, save_every=2,
        state_seconds=0, state_every=0, tensorboard=False, embed_workflow=False,
    )  # fmt: skip
    graph["train"]["inputs"]["settings"] = ["saving", 0]
    host.run(graph)
    host.run(sweep("(lora input)", [("LoRA file: all steps of a run", "stepped.safetensors")], steps=1))
    (axis,) = host.newest_sweep()["axes"]
    # of the third and last epoch there is the run's own file
    assert axis["values"] == [
        "stepped-step00000002.safetensors", "stepped-000001.safetensors", "stepped-step00000004.safetensors",
        "stepped.safetensors",
    ]  # fmt: skip
    assert axis["texts"] == ["2", "3", "4", "6"]
    (host.output / "loras" / "half-step00000002.safetensors").write_bytes(b"of a run that has saved no epoch")
    with pytest.raises(dev.PromptFailure, match="There is no LoRA of a run 'half'"):
        host.run(sweep("(lora input)", [("LoRA file: all epochs of a run", "half")], steps=1))
    foreign = host.output / "loras" / "foreign.safetensors"
    save_file({"lora_unet_nowhere.lora_up.weight": torch.zeros(8, 4)}, foreign)
    with pytest.raises(dev.PromptFailure, match="'foreign.safetensors' does not tell after how many steps"):
        host.run(sweep("(lora input)", [("LoRA file: all steps of a run", "foreign")], steps=1))


@pytest.mark.parametrize(
    "axes",
    [
        [("LoRA weight", "0, 0.7"), ("CFG scale", "1, 6")],
        [("prompt", '"moon, sea"\nsun'), ("sampler", "euler, dpmpp_2m_sde")],
        [("checkpoint", "tiny_sdxl.safetensors"), ("size", "64x128, 128x64"), ("sampling steps", "1, 2")],
    ],
    ids=["LoRA", "texts", "checkpoint"],
)
def test_a_cells_file_carries_a_graph_that_gives_its_pixels(host: Host, lora: str, axes: Axes) -> None:
    graph = sweep(lora, axes, steps=2, seed=71)
    # what is upstream goes into the cell's graph, and what is not does not
    graph["shifted"] = node("ModelSamplingDiscrete", model=["ckpt", 0], sampling="eps", zsnr=False)
    graph["aside"] = node("EmptyImage", width=64, height=64, batch_size=1, color=0)
    graph["shown"] = node("PreviewImage", images=["aside", 0])
    if axes[0][0] != "checkpoint":
        graph["sweep"]["inputs"]["model"] = ["shifted", 0]
    host.run(graph)
    told = host.newest_sweep()["cells"]
    for cell in (told[0], told[-1]):
        with Image.open(cell["path"]) as image:
            own = json.loads(image.text["prompt"])
        kinds = {each["class_type"] for each in own.values()}
        assert "KSampler" in kinds and not kinds & {"MjesecSweep", "MjesecSweepAxis", "PreviewImage", "EmptyImage"}
        assert ("ModelSamplingDiscrete" in kinds) == (axes[0][0] != "checkpoint")
        (path,) = host.outputs(host.run(own))
        assert np.array_equal(pixels(path), pixels(cell["path"]))
