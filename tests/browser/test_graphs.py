"""What people do with graphs of our nodes: drop a picture, search, wire, undo, copy, nest, save, and go on tomorrow."""

from __future__ import annotations

import json
import re
import uuid
from typing import Any

import pytest
from browser_editor import Editor, expect, read
from host_graphs import Graph, node, sweep
from PIL import Image

AXES = [("CFG scale", "1, 4"), ("seed", "1, 2")]
PLACES = "() => window.app.graph.serialize().nodes.map(node => [node.id, node.type, node.pos])"
HOSTILE = "<img src=x onerror=window.hostile=1> ![a](http://mjesec.invalid/a.png) **b**"
# steps that Ctrl+Z can take back: the editor records what was done a little later
UNDOABLE = "() => window.app.extensionManager.workflow.activeWorkflow.changeTracker.undoQueue.length"
AT_TOP = "() => window.app.canvas.graph === window.app.graph"
SELECT = """wanted => {
    window.app.canvas.selectItems(window.app.graph.nodes.filter(node => node.type.startsWith(wanted)))
    window.app.canvas.canvas.focus()
}"""


@pytest.fixture(autouse=True)
def nothing_open(editor: Editor) -> None:
    editor.new_graph()


def values(graph: Graph) -> dict[str, dict[str, Any]]:
    """Class and widget values of every node, without links, titles and the subgraphs around it."""
    return {
        key.rpartition(":")[2]: {name: value for name, value in each["inputs"].items() if not isinstance(value, list)}
        | {"class_type": each["class_type"]}
        for key, each in graph.items()
    }


def test_a_dropped_figure_brings_back_its_graph_and_a_dropped_cell_its_own(editor: Editor) -> None:
    editor.open_api(sweep("(lora input)", AXES, steps=1))
    (figure,) = (path for path in editor.queue() if path.suffix == ".png")
    graph, places = editor.prompt(), editor.js(PLACES)
    editor.new_graph()
    editor.drop(figure)
    assert editor.prompt() == graph
    assert editor.js(PLACES) == places

    manifest = max((editor.host.output / "mjesec" / "sweeps").glob("2*.json"), key=lambda path: path.stat().st_mtime)
    cell = next(cell for cell in read(manifest)["cells"] if cell["index"] == [1, 0])
    path = editor.host.output / "mjesec" / "cells" / cell["key"][:2] / f"{cell['key']}.png"
    editor.drop(path)
    opened = editor.prompt()
    with Image.open(path) as image:
        assert values(opened) == values(json.loads(image.info["prompt"]))
    assert not any(node["class_type"].startswith("Mjesec") for node in opened.values())
    (sampler,) = (node["inputs"] for node in opened.values() if node["class_type"] == "KSampler")
    assert {"cfg": 4, "seed": 1, "steps": 1}.items() <= sampler.items()


def test_a_report_stands_on_its_node_once_it_ran_and_hostile_texts_in_it_stay_texts(editor: Editor) -> None:
    config = f"resolution = 512\nmax_train_steps = 5\nshuffle_caption = true\nkeep_tokens_separator = '{HOSTILE}'"
    editor.open_api(
        {
            "kohya": node("MjesecLoadKohyaConfig", text=config, file="the text below", output_name=editor.renderer),
            "told": node("PreviewAny", source=["kohya", 1]),
        }
    )
    editor.js("() => window.app.canvas.centerOnNode(window.app.graph.nodes[0])")
    editor.queue()
    (report,) = next(reversed(editor.host.get("/history").values()))["outputs"]["kohya"]["text"]
    assert HOSTILE in report
    # PreviewAny, with the same text in a field, is the host's own
    told = editor.page.locator("span, p").filter(has_text="keep_tokens_separator =").first
    expect(told).to_contain_text(HOSTILE)
    assert editor.js("() => document.querySelector('img[src*=\"mjesec.invalid\"], img[src=x]')") is None
    assert editor.js("() => window.hostile") is None
    editor.shot(f"report_{editor.renderer}")


def test_nodes_are_found_by_what_others_call_them_wired_copied_and_undone(editor: Editor) -> None:
    editor.add_by_search("parameter sweep", "Sweep Axis", 200, 200)
    editor.add_by_search("xyz grid", "Sweep", 750, 150)
    axis, grid = (node["id"] for node in editor.js("() => window.app.graph.serialize().nodes"))
    editor.js("() => { window.app.graph.nodes[0].widgets[1].value = '3, 5' }")
    before = editor.js(UNDOABLE)
    editor.wire(axis, "axes", grid, "axes")
    editor.page.mouse.click(300, 850)  # on nothing: links are recorded with what is done next
    editor.page.wait_for_function(f"before => ({UNDOABLE})() > before", arg=before)
    wired = editor.prompt()
    assert wired[str(grid)]["inputs"]["axes"] == [str(axis), 0]

    editor.js(SELECT, "MjesecSweepAxis")
    before = editor.js(UNDOABLE)
    editor.page.keyboard.press("Control+c")
    editor.page.keyboard.press("Control+v")
    editor.page.wait_for_function("() => window.app.graph.nodes.length === 3")
    editor.page.wait_for_function(f"before => ({UNDOABLE})() > before", arg=before)
    (copy,) = (node for key, node in editor.prompt().items() if key not in wired)
    assert copy["inputs"] == wired[str(axis)]["inputs"] and copy["inputs"]["values"] == "3, 5"

    editor.settle()
    editor.press_until("Control+z", "() => window.app.graph.nodes.length === 2")
    assert editor.prompt() == wired
    editor.press_until("Control+z", "() => window.app.graph.links.size === 0")
    editor.press_until("Control+y", "() => window.app.graph.links.size === 1")
    assert editor.prompt() == wired


def test_an_axis_is_filled_by_choosing_names(editor: Editor) -> None:
    loras = editor.host.output / "loras"
    loras.mkdir(parents=True, exist_ok=True)
    for name in ("chosen", "chosen-000001", "with, comma"):
        (loras / f"{name}.safetensors").write_bytes(b"listed by its name alone")
    editor.open_api({"1": node("MjesecSweepAxis", parameter="LoRA file", values="chosen.safetensors")})
    dialog = editor.page.get_by_role("dialog")

    def values() -> str:
        return str(editor.prompt()["1"]["inputs"]["values"])

    editor.press("MjesecSweepAxis", "Choose")
    expect(dialog.get_by_label("chosen.safetensors", exact=True)).to_be_checked()
    dialog.get_by_label("Filter").fill("comma")
    expect(dialog.get_by_label("chosen.safetensors", exact=True)).to_be_hidden()
    dialog.get_by_label("with, comma.safetensors").check()
    editor.shot(f"axis_choose_{editor.renderer}")
    dialog.get_by_role("button", name="Use 2").click()
    expect(dialog).to_be_hidden()
    assert values().splitlines() == ["chosen.safetensors", '"with, comma.safetensors"']
    editor.press("MjesecSweepAxis", "Choose")
    for name in ("chosen.safetensors", "with, comma.safetensors"):
        expect(dialog.get_by_label(name, exact=True)).to_be_checked()
    editor.page.keyboard.press("Escape")

    editor.js("() => { window.app.graph.nodes[0].widgets[0].value = 'LoRA file: all epochs of a run' }")
    editor.press("MjesecSweepAxis", "Choose")
    dialog.get_by_role("button", name="chosen.safetensors", exact=True).click()
    expect(dialog).to_be_hidden()
    assert values() == "chosen.safetensors"


def test_choosing_one_more_name_keeps_what_stands_in_an_axis_and_is_undone(editor: Editor) -> None:
    typed = "uni_pc, gone, euler, ddim"
    editor.open_api({"1": node("MjesecSweepAxis", parameter="sampler", values=typed)})
    editor.press("MjesecSweepAxis", "Choose")
    dialog = editor.page.get_by_role("dialog")
    expect(dialog.get_by_label("gone")).to_be_checked()
    dialog.get_by_label("heun", exact=True).check()
    dialog.get_by_label("ddim", exact=True).uncheck()
    editor.shot(f"axis_choose_sampler_{editor.renderer}")
    dialog.get_by_role("button", name="Use 4").click()
    expect(dialog).to_be_hidden()
    assert editor.prompt()["1"]["inputs"]["values"].splitlines() == ["uni_pc", "gone", "euler", "heun"]
    editor.press_until("Control+z", f"() => window.app.graph.nodes[0].widgets[1].value === '{typed}'")


def test_in_a_subgraph_our_nodes_run_and_their_buttons_work(editor: Editor) -> None:
    editor.open_api(sweep("(lora input)", AXES, steps=1))
    flat = editor.prompt()
    editor.js(SELECT, "Mjesec")
    editor.command("Comfy.Graph.ConvertToSubgraph")
    assert editor.js("() => window.app.graph.nodes.length") == 2
    nested = editor.prompt()
    assert sum(":" in key for key in nested) == 4
    assert values(nested) == values(flat)
    editor.queue()
    editor.js("""() => {
        const outer = window.app.graph.nodes.find(node => node.subgraph)
        window.app.canvas.openSubgraph(outer.subgraph, outer)
    }""")
    editor.settle()
    editor.press("MjesecFigure", "Explore cells")
    viewer = editor.page.get_by_role("dialog", name="Figure")
    expect(viewer.get_by_role("gridcell")).to_have_count(4)
    editor.shot("in_a_subgraph")
    # the first Escape is the viewer's alone, wherever the focus is, the second the editor's
    editor.js("() => document.activeElement.blur()")
    editor.page.keyboard.press("Escape")
    expect(viewer).to_be_hidden()
    assert not editor.js(AT_TOP)
    editor.press_until("Escape", AT_TOP)


def test_a_saved_workflow_is_the_same_after_a_reload_and_in_its_file(editor: Editor) -> None:
    editor.open_api(sweep("(lora input)", AXES, steps=2, prompt='a "saved"\nmoon'))
    before = editor.prompt()
    name = uuid.uuid4().hex
    editor.page.keyboard.press("Control+s")
    editor.page.get_by_role("dialog").get_by_role("textbox").fill(name)
    editor.page.keyboard.press("Enter")
    expect(editor.page).to_have_title(f"{name} - ComfyUI")
    editor.load()
    # which tab was the last one it may not have noted in time
    editor.page.get_by_role("button", name=re.compile(name)).first.click()
    expect(editor.page).to_have_title(f"{name} - ComfyUI")
    assert editor.prompt() == before
    # what was seen above may be what the browser remembers
    editor.new_graph()
    editor.open_graph(read(editor.host.base / "user" / "default" / "workflows" / f"{name}.json"))
    assert editor.prompt() == before
