"""Every shipped workflow in the real host, as it is but for the checkpoint, the sizes and the numbers of steps."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from host_graphs import Graph, node, picture
from host_server import Host
from pack.figures import Axis, FigureStyle, Layout, cells, plan_figure
from pack.trainer.moons import render_moons
from PIL import Image
from safetensors import safe_open

import dev

FILES = {path.stem: path for path in sorted((dev.ROOT / "workflows" / "api").glob("*.json"))}
# everything that is changed, by node and input; no workflow is changed elsewhere
SMALL: dict[str, dict[str, Any]] = {
    "CheckpointLoaderSimple": {"ckpt_name": dev.TINY_SDXL.name},
    "MjesecTrainSettings": {"steps": 3, "resolution": 128},
    "MjesecThesisSettings": {"steps": 4, "resolution": 128},
    "MjesecSweep": {"steps": 2, "width": 128, "height": 128},
}
# a LoRA file that a workflow takes from disk, and the workflow that makes it
MADE_BY = {"mjesec.safetensors": "thesis_train"}
PARAMETERS = {"CFG scale": "cfg", "sampling steps": "steps", "LoRA weight": "lora_weight", "seed": "seed"}


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
    render_moons(host.input / "moon", 6, 128, seed=1)
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
    settings = next(v["inputs"] for v in training.graph.values() if v["class_type"].endswith("Settings"))
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
    held_out = re.search(r"Held-out loss: base (\S+), with the LoRA (\S+), ratio (\S+)\.", runs["quickstart"].report())
    base, tuned, ratio = map(float, held_out.groups())
    assert base > 0 and ratio == pytest.approx(tuned / base, abs=1e-3)


@pytest.mark.parametrize("name", [name for name in FILES if "MjesecFigure" in FILES[name].read_text(encoding="utf-8")])
def test_the_figure_shows_every_cell_at_its_own_pixels_and_no_two_are_alike(
    name: str, runs: dict[str, Run], host: Host
) -> None:
    run = runs[name]
    ((key, figure),) = run.nodes_of("MjesecFigure").items()
    layout = layout_of(run, figure["inputs"])
    (path,) = run.files_of(key, host)
    with Image.open(path) as image:
        assert image.size == (layout.width, layout.height)
        boxes = [cell.box for cell in layout.cells]
        pictures = [image.convert("RGB").crop((b.x, b.y, b.x + b.width, b.y + b.height)) for b in boxes]
    # the axes vary the LoRA's weight and the seed, so two cells that are alike would be one picture used twice
    assert len({picture.tobytes() for picture in pictures}) == len(pictures) > 1
    assert {picture.size for picture in pictures} == {(128, 128)}


def layout_of(run: Run, inputs: Mapping[str, Any]) -> Layout:
    """Where the figure's cells must be, planned from the workflow's own numbers."""
    axes = axes_of(run, run.graph[inputs["grid"][0]]["inputs"])
    look = {key: inputs[key] for key in ("title", "caption", "theme", "font", "transpose", "tags", "dpi")}
    style = FigureStyle(**look, columns=inputs["columns"] or None, cell_width=inputs["cell_width"] or None)
    return plan_figure(axes, {cell.index: (128, 128) for cell in cells(axes)}, style)


def axes_of(run: Run, inputs: Mapping[str, Any]) -> tuple[Axis, ...]:
    """The axes behind a node's input, the first of the chain first."""
    if "axes" not in inputs:
        return ()
    own = run.graph[inputs["axes"][0]]["inputs"]
    return (*axes_of(run, own), Axis.parse(PARAMETERS[own["parameter"]], own["values"]))
