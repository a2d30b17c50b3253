"""Every shipped workflow in the real host, as it is but for the checkpoint, the sizes and the numbers of steps."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from host_graphs import Graph, node, picture
from host_server import Host
from pack.figures import UNLABELLED, Axis, FigureStyle, Layout, cells, plan_figure
from pack.figures.layout import Box
from pack.trainer.moons.folder import render_moons
from PIL import Image
from safetensors import safe_open

import dev

FILES = {path.stem: path for path in sorted((dev.ROOT / "workflows" / "api").glob("*.json"))}
SIDE = 96
# the second pass is half as large again
LARGER = (SIDE * 3 // 2, SIDE * 3 // 2)
# everything that is changed, by node and input; no workflow is changed elsewhere
SMALL: dict[str, dict[str, Any]] = {
    "CheckpointLoaderSimple": {"ckpt_name": dev.TINY_SDXL.name},
    "MjesecTrainSettings": {"steps": 4, "resolution": 128},
    "MjesecLoadKohyaConfig": {"steps": 4, "resolution": 128},
    "MjesecSweep": {"steps": 3, "width": SIDE, "height": SIDE},
    "MjesecDenoisingStrip": {"steps": 2, "at_steps": "0, 1, 2"},
    "MjesecNightScene": {"width": SIDE, "height": SIDE},
    "EmptyLatentImage": {"width": SIDE, "height": SIDE},
    "KSampler": {"steps": 3},
}
FEW_STEPS = "1, 2, 3"
# a LoRA file that a workflow takes from disk, and the workflow that makes it
MADE_BY = {"mjesec.safetensors": "thesis_train"}
PARAMETERS = {
    "CFG scale": "cfg", "sampling steps": "steps", "LoRA weight": "lora_weight", "seed": "seed", "sampler": "sampler",
    "scheduler": "scheduler",
}  # fmt: skip
EPOCHS = "LoRA file: all epochs of a run"
PICTURES = ("MjesecSweep", "MjesecDenoisingStrip", "MjesecAddToGrid", "MjesecCompositeCells")


@dataclass(frozen=True)
class Run:
    """A workflow as it was queued, what the host's history says of it, and the files it reports."""

    graph: Graph
    entry: Mapping[str, Any]
    files: list[Path]

    def nodes_of(self, kind: str) -> dict[str, dict[str, Any]]:
        return {key: value for key, value in self.graph.items() if value["class_type"] == kind}

    def files_of(self, key: str, host: Host) -> list[Path]:
        return dev.output_files({"outputs": {key: self.entry["outputs"][key]}}, host.output)

    def report(self) -> str:
        """What the training node says."""
        (train,) = self.nodes_of("MjesecTrainLora")
        return self.entry["outputs"][train]["text"][0]

    def held_out(self) -> list[float]:
        """The loss on held-out images of the base, with the LoRA, and the ratio of the two."""
        found = re.search(r"Held-out loss: base (\S+), with the LoRA (\S+), ratio (\S+)\.", self.report())
        return [float(number) for number in found.groups()]

    def lora(self) -> str:
        return re.search(r"^Saved (.+)\.$", self.report(), re.MULTILINE)[1]


def shipped(name: str) -> Graph:
    return json.loads(FILES[name].read_text(encoding="utf-8"))


def small(graph: Graph, loras: Mapping[str, str]) -> Graph:
    """The graph with SMALL and the names of the LoRA files that were made here."""
    out = copy.deepcopy(graph)
    for each in out.values():
        changes = SMALL.get(each["class_type"], {})
        assert changes.keys() <= each["inputs"].keys(), f"{each['class_type']} has lost an input"
        each["inputs"] |= changes
        if each["inputs"].get("parameter") == "sampling steps":
            each["inputs"]["values"] = FEW_STEPS
        if each["inputs"].get("lora_name") in loras:
            each["inputs"]["lora_name"] = loras[each["inputs"]["lora_name"]]
    return out


def with_probes(graph: Graph) -> Graph:
    """Two plain pictures more, made after the training by the very model that was trained on.

    Both go through the host's LoraLoader, which takes the trained file's name from the wire: at weight 0 it hands
    on the base itself, at weight 1 it has to load the file.
    """
    trains = [key for key, value in graph.items() if value["class_type"] == "MjesecTrainLora"]
    out = dict(graph)
    for train in trains:
        loader = graph[train]["inputs"]["model"][0]
        for label, weight in (("base", 0.0), ("tuned", 1.0)):
            probe = picture(weight=weight, lora="from the wire", prefix=f"probes/{label}")
            probe["lora"]["inputs"]["lora_name"] = [train, 1]
            del probe["ckpt"]
            places = {"ckpt": loader, **{key: f"{label}.{key}" for key in probe}}
            for key, value in probe.items():
                out[places[key]] = node(
                    value["class_type"], **{n: moved(v, places) for n, v in value["inputs"].items()}
                )
    return out


def moved(value: Any, places: Mapping[str, str]) -> Any:
    return [places.get(value[0], value[0]), value[1]] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def base_pixels(host: Host) -> bytes:
    """What the base draws before anything was trained."""
    (path,) = host.outputs(host.run(picture(prefix="probes/before")))
    return pixels(path)


@pytest.fixture(scope="module")
def runs(host: Host, base_pixels: bytes) -> dict[str, Run]:
    """All of them, in an order in which every LoRA file is there when it is wanted."""
    render_moons(host.input / "moon", 12, 128, seed=1)
    done: dict[str, Run] = {}
    for name in sorted(FILES, key=lambda name: (name not in MADE_BY.values(), name)):
        loras = {file: done[maker].lora() for file, maker in MADE_BY.items() if maker in done}
        graph = with_probes(small(shipped(name), loras))
        entry = host.run(graph)
        done[name] = Run(graph, entry, host.outputs(entry))
    return done


@pytest.fixture(params=FILES)
def run(request: pytest.FixtureRequest, runs: dict[str, Run]) -> Run:
    return runs[request.param]


@pytest.fixture(params=[name for name in FILES if "MjesecTrainLora" in FILES[name].read_text(encoding="utf-8")])
def training(request: pytest.FixtureRequest, runs: dict[str, Run]) -> Run:
    return runs[request.param]


def pixels(path: Path) -> bytes:
    with Image.open(path) as image:
        return image.convert("RGB").tobytes()


def test_it_succeeds_and_every_output_node_leaves_a_file(run: Run, host: Host) -> None:
    assert run.entry["status"]["status_str"] == "success" and run.entry["status"]["completed"]
    for kind in ("SaveImage", "MjesecFigure"):
        for key in run.nodes_of(kind):
            (path,) = run.files_of(key, host)
            with Image.open(path) as image:
                image.load()
                assert bare(json.loads(image.text["prompt"])) == bare(run.graph)


def bare(graph: Graph) -> Graph:
    """Classes and inputs alone: the host adds what it learns of a folder."""
    return {key: {name: value[name] for name in ("class_type", "inputs")} for key, value in graph.items()}


def test_no_run_leaves_a_complaint_in_the_log(runs: dict[str, Run], host: Host) -> None:
    assert len(runs) == len(FILES)
    assert host.complaints() == []


def test_the_lora_is_in_kohyas_form_with_the_numbers_that_were_set(training: Run, host: Host) -> None:
    kinds = ("Settings", "KohyaConfig")
    settings = next(v["inputs"] for v in training.graph.values() if v["class_type"].endswith(kinds))
    with safe_open(host.output / "loras" / training.lora(), framework="pt") as file:
        metadata, names = file.metadata(), list(file.keys())
    modules = {name.split(".")[0] for name in names}
    assert {name.removeprefix(name.split(".")[0]) for name in names} == {
        ".alpha",
        ".lora_down.weight",
        ".lora_up.weight",
    }
    assert len(names) == 3 * len(modules)
    assert {module.split("_")[1] for module in modules} == {"unet", "te1", "te2"}
    assert metadata["ss_steps"] == str(settings["steps"])
    # the thesis settings are rank 32 and alpha 8, whoever wrote the workflow
    assert metadata["ss_network_dim"] == str(settings.get("rank", 32))
    assert float(metadata["ss_network_alpha"]) == settings.get("alpha", 8.0)


def test_training_leaves_the_base_as_it_was_to_the_last_bit(training: Run, base_pixels: bytes, host: Host) -> None:
    (after,) = training.files_of("base.save", host)
    assert pixels(after) == base_pixels


def test_the_hosts_own_loader_puts_the_lora_on(training: Run, base_pixels: bytes, host: Host) -> None:
    (tuned,) = training.files_of("tuned.save", host)
    assert pixels(tuned) != base_pixels


def test_the_quickstart_reports_the_loss_on_held_out_moons(runs: dict[str, Run]) -> None:
    base, tuned, ratio = runs["quickstart"].held_out()
    assert base > 0 and ratio == pytest.approx(tuned / base, abs=1e-3)


def test_ten_steps_of_the_quickstart_lower_the_loss_on_moons_that_they_never_saw(host: Host) -> None:
    """A trainer that learns nothing leaves it where it was, at a ratio of 1; ten steps come to 0.65 to 0.70."""
    whole = shipped("quickstart")
    (train,) = (key for key, each in whole.items() if each["class_type"] == "MjesecTrainLora")
    graph = {key: whole[key] for key in (train, *(link[0] for link in whole[train]["inputs"].values()))}
    for each in graph.values():
        if each["class_type"] == "MjesecTrainSettings":
            each["inputs"] |= {"output_name": "ten_steps", "steps": 10}
    _, _, ratio = Run(graph, host.run(graph), []).held_out()
    assert ratio < 0.8


def figures() -> list[tuple[str, str]]:
    """(workflow, node) of every figure of pictures, not of numbers."""
    return [
        (name, key)
        for name in FILES
        for key, node in shipped(name).items()
        if node["class_type"] == "MjesecFigure" and shipped(name)[node["inputs"]["grid"][0]]["class_type"] in PICTURES
    ]


@pytest.mark.parametrize(("name", "key"), figures())
def test_a_figure_shows_every_cell_at_its_own_pixels_and_no_two_are_alike(
    name: str, key: str, runs: dict[str, Run], host: Host
) -> None:
    run = runs[name]
    layout = layout_of(run, run.graph[key]["inputs"])
    with Image.open(run.files_of(key, host)[0]) as image:
        assert image.size == (layout.width, layout.height)
        pictures = {cell.index: cut(image, cell.box) for cell in layout.cells}
    source = run.graph[run.graph[key]["inputs"]["grid"][0]]["class_type"]
    # a picture used twice would be alike; only a strip ends so: its last prediction is x_0, and so is x_t at the end
    alike = 2 if source == "MjesecDenoisingStrip" else 0
    assert len({picture.tobytes() for picture in pictures.values()}) == len(pictures) - alike > 1


def cut(image: Image.Image, box: Box) -> Image.Image:
    return image.convert("RGB").crop((box.x, box.y, box.x + box.width, box.y + box.height))


def layout_of(run: Run, inputs: Mapping[str, Any]) -> Layout:
    """Where the figure's cells must be, planned from the workflow's own numbers."""
    axes = axes_of(run, inputs["grid"][0])
    look = {key: inputs[key] for key in ("title", "caption", "theme", "font", "transpose", "tags", "dpi")}
    style = FigureStyle(**look, columns=inputs["columns"] or None, cell_width=inputs["cell_width"] or None)
    sizes = {cell.index: (SIDE, SIDE) for cell in cells(axes)}
    if axes[0].values[-1] == "second pass":
        sizes[1,] = LARGER
    return plan_figure(axes, sizes, style)


def axes_of(run: Run, key: str) -> tuple[Axis, ...]:
    """The axes of the grid that a node gives."""
    kind, inputs = run.graph[key]["class_type"], run.graph[key]["inputs"]
    if kind == "MjesecDenoisingStrip":
        steps = tuple(int(step) for step in inputs["at_steps"].split(","))
        return Axis("step", steps, "Steps done"), Axis("frame", ("noisy image", "prediction"), UNLABELLED)
    if kind == "MjesecCompositeCells":
        return axes_of(run, inputs["grid"][0])
    if kind == "MjesecAddToGrid":
        before = axes_of(run, inputs["grid"][0])[0].values if "grid" in inputs else ()
        return (Axis("image", (*before, inputs["name"]), UNLABELLED),)
    before = axes_of(run, inputs["axes"][0]) if "axes" in inputs else ()
    if kind != "MjesecSweepAxis":
        return before
    if inputs["parameter"] == EPOCHS:
        # twelve images, four a step: three steps make the first epoch, the run ends in the second
        return (*before, Axis("lora_file", ("one", "two"), "Epoch", names=("1", "2")))
    return (*before, Axis.parse(PARAMETERS[inputs["parameter"]], inputs["values"]))


def figure_cells(run: Run, key: str, host: Host) -> list[Image.Image]:
    boxes = [cell.box for cell in layout_of(run, run.graph[key]["inputs"]).cells]
    with Image.open(run.files_of(key, host)[0]) as image:
        return [cut(image, box) for box in boxes]


def test_the_upscaled_image_goes_on_from_the_cell_of_weight_06(runs: dict[str, Run], host: Host) -> None:
    weights, upscale = runs["fig11_lora_weight"], runs["fig12_upscale"]
    of_weight = figure_cells(weights, *weights.nodes_of("MjesecFigure"), host)
    before, after = figure_cells(upscale, *upscale.nodes_of("MjesecFigure"), host)
    assert before.tobytes() == of_weight[2].tobytes()
    assert after.size == LARGER


def test_inpainting_leaves_what_is_outside_the_mask(runs: dict[str, Run], host: Host) -> None:
    run = runs["fig13_inpainting"]
    (scene, mask), results = (figure_cells(run, key, host) for key in run.nodes_of("MjesecFigure"))
    inside = np.asarray(mask.convert("L")) > 0
    for result in results:
        change = np.abs(np.asarray(result, int) - np.asarray(scene, int)).max(-1)
        assert change[~inside].max() == 0 and change[inside].mean() > 4


def test_the_whole_thesis_goes_on_from_the_cell_that_it_has(runs: dict[str, Run], host: Host) -> None:
    whole = runs["thesis_all"]
    keys = {each["inputs"]["filename_prefix"]: key for key, each in whole.nodes_of("MjesecFigure").items()}
    of_weight = figure_cells(whole, keys["mjesec/fig11_lora_weight"], host)
    before, _ = figure_cells(whole, keys["mjesec/fig12_upscale"], host)
    assert before.tobytes() == of_weight[2].tobytes()


@pytest.mark.parametrize(
    "name", ["fig07_short_prompt", "fig10_denoising", "fig12_upscale", "fig13_inpainting", "beyond_overfitting"]
)
def test_a_manifest_tells_what_the_figure_was_made_with(name: str, runs: dict[str, Run], host: Host) -> None:
    told = [
        json.loads(path.with_name(path.name.replace("_.png", ".json")).read_text(encoding="utf-8"))
        for key, each in runs[name].nodes_of("MjesecFigure").items()
        if each["inputs"]["manifest"]
        for path in runs[name].files_of(key, host)
    ]
    assert told
    for one in told:
        assert {"mjesec", "comfyui", "torch"} <= one["environment"].keys()
        if "mode" in one:
            # a sweep's, or a view of one
            assert "moon" in one["parameters"]["prompt"] and len(one["hashes"]["model"]) == 64
            assert any(key.startswith("lora") for key in one["hashes"])
            continue
        assert any("moon" in text for text in one["prompts"])
        assert len(one["files"][dev.TINY_SDXL.name]) == 64
        if "MjesecTrainLora" not in FILES[name].read_text(encoding="utf-8"):
            assert any(file.startswith("mjesec") for file in one["files"])
