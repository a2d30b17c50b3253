"""Widgets whose values come by wire: nobody knows them before the graph runs, and nothing may trip over that."""

from __future__ import annotations

from typing import Any

import pytest
from host_graphs import Graph, node, picture, sweep, training
from host_server import Host
from pack.trainer.moons.folder import render_moons

import dev


def wired(graph: Graph, name: str, widget: str) -> Graph:
    """The graph with a widget's value on a wire, through a node that any type of input takes."""
    value = graph[name]["inputs"][widget]
    graph[f"{name} {widget}"] = node("PrimitiveStringMultiline", value=value)
    graph[f"any {name} {widget}"] = node(
        "ComfySwitchNode", switch=True, on_true=[f"{name} {widget}", 0], on_false=[f"{name} {widget}", 0]
    )
    graph[name]["inputs"][widget] = [f"any {name} {widget}", 0]
    return graph


def shown(host: Host, graph: Graph, source: list[Any]) -> str:
    """What a node's text output says, and nobody stumbled over a value that was not there yet."""
    graph["show"] = node("PreviewAny", source=source)
    before = len(host.log_text())
    text = host.run(graph)["outputs"]["show"]["text"][0]
    assert "NoneType" not in host.log_text()[before:]
    return str(text)


def test_the_folder_of_a_dataset_is_read_anew(host: Host) -> None:
    render_moons(host.input / "by wire", 2, 64, seed=1)
    graph = {
        "data": node(
            "MjesecLoadImageDataset", folder="input/by wire", repeats=1, default_caption="", caption_extension=".txt"
        )
    }
    wired(graph, "data", "folder")
    assert "Images: 2" in shown(host, graph, ["data", 2])
    render_moons(host.input / "by wire", 3, 64, seed=2)
    assert "Images: 3" in shown(host, graph, ["data", 2])


def test_a_configuration_and_its_text(host: Host) -> None:
    folder = host.input / "wires"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.toml").write_text("resolution = 128\nnetwork_dim = 4\n", "utf-8")
    inputs = {"output_name": "", "steps": 2, "resolution": 128, "seed": -1, "precision": "auto"}
    by_file = {"set": node("MjesecLoadKohyaConfig", file="wires/a.toml", text="", **inputs)}
    wired(by_file, "set", "file")
    assert "network_dim = 4" in shown(host, by_file, ["set", 1])
    (folder / "a.toml").write_text("resolution = 128\nnetwork_dim = 8\n", "utf-8")
    assert "network_dim = 8" in shown(host, by_file, ["set", 1])
    pasted = {
        "set": node("MjesecLoadKohyaConfig", file="the text below", text="resolution = 128\nnetwork_dim = 6", **inputs)
    }
    wired(pasted, "set", "text")
    assert "network_dim = 6" in shown(host, pasted, ["set", 1])


def test_the_name_of_a_lora_that_the_same_graph_trains(host: Host) -> None:
    graph = training(output_name="by_wire", steps=1)
    graph["lora"] = node(
        "MjesecLoadLora", model=["ckpt", 0], clip=["ckpt", 1], lora_name=["train", 1], strength_model=1.0,
        strength_clip=1.0,
    )  # fmt: skip
    assert "matched" in shown(host, graph, ["lora", 2])


def test_the_parameter_and_the_values_of_an_axis(host: Host) -> None:
    graph = sweep("(lora input)", [("CFG scale", "1, 2")], steps=1)
    wired(graph, "axis0", "parameter")
    wired(graph, "axis0", "values")
    assert shown(host, graph, ["sweep", 1]).startswith("2 cells: ")


def test_a_parameter_that_is_none_is_refused_when_it_comes(host: Host) -> None:
    graph = sweep("(lora input)", [("CFG scale", "1, 2")], steps=1)
    graph["axis0"]["inputs"]["parameter"] = "brightness"
    wired(graph, "axis0", "parameter")
    with pytest.raises(dev.PromptFailure, match="The parameter 'brightness' cannot be varied"):
        host.run(graph)
    assert host.outputs(host.run(picture(steps=1)))
