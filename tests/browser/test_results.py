"""What runs give to nodes: to those of the workflow that was queued, and again whenever it is shown."""

from __future__ import annotations

import html
import itertools
import time
from typing import Any

import pytest
from browser_editor import Editor, expect, read
from host_graphs import Graph, node

import dev

# node id -> the text that stands on it, as the page has it
TEXTS = """() => Object.fromEntries(window.app.canvas.graph.nodes.flatMap(({ id, widgets = [] }) => {
    const texts = widgets.filter(widget => widget.name.includes('text-preview')).map(widget => widget.value)
    return texts.length ? [[id, texts.join()]] : []
}))"""
DATASET = (
    "() => window.app.rootGraph.nodes.find(node => node.comfyClass === 'MjesecMoonDataset').properties.mjesec_dataset"
)
LOOK = """id => {
    window.app.canvas.ds.scale = 1
    window.app.canvas.centerOnNode(window.app.canvas.graph.getNodeById(id))
    window.app.canvas.setDirty(true, true)
}"""
INTO_SUBGRAPH = """id => window.app.graph.convertToSubgraph(new Set([window.app.graph.getNodeById(id)]))"""
OPEN_SUBGRAPH = "() => window.app.canvas.openSubgraph(window.app.graph.nodes.find(node => node.subgraph).subgraph)"
numbers = itertools.count(int(time.time()) % 100_000)


def moons(count: int, size: int = 64) -> Graph:
    """Other moons than in any other test, so that they are rendered."""
    return {
        "1": node("MjesecMoonDataset", count=count, size=size, seed=next(numbers)),
        "2": node("PreviewAny", source=["1", 2]),
    }


def texts(editor: Editor) -> dict[str, str]:
    return {name: html.unescape(text).replace("\xa0", " ") for name, text in editor.js(TEXTS).items()}


def wait_until_running(editor: Editor) -> None:
    ends = time.monotonic() + 30
    while not editor.host.get("/queue")["queue_running"]:
        assert time.monotonic() < ends
        editor.page.wait_for_timeout(20)


def wait_until_idle(editor: Editor) -> None:
    ends = time.monotonic() + 120
    while any(editor.host.get("/queue").values()):
        assert time.monotonic() < ends
        editor.page.wait_for_timeout(50)
    editor.page.wait_for_timeout(500)  # for whatever comes to the page after the end


@pytest.fixture(autouse=True)
def nothing_open(editor: Editor) -> None:
    editor.new_graph()


def test_a_result_goes_to_the_workflow_that_was_queued_while_another_is_shown(editor: Editor) -> None:
    first, second = (f"{name}_{next(numbers)}" for name in ("first", "second"))
    editor.open_workflow(moons(3), first)
    editor.queue()
    own = editor.js(DATASET), texts(editor)
    assert own[0] and "Images: 3 (" in own[1]["1"]

    editor.open_workflow(moons(200, 256), second)
    assert editor.js(DATASET) is None and not texts(editor)
    editor.press_run()
    wait_until_running(editor)
    editor.show_workflow(first)
    wait_until_idle(editor)
    assert (editor.js(DATASET), texts(editor)) == own

    editor.show_workflow(second)
    editor.page.wait_for_function(f"() => ({DATASET})() != null")
    assert editor.js(DATASET) != own[0]
    assert "Images: 200 (" in texts(editor)["1"]
    editor.show_workflow(first)
    editor.page.wait_for_function(f"own => ({DATASET})() === own", arg=own[0])
    assert (editor.js(DATASET), texts(editor)) == own


def test_another_tab_of_the_browser_shows_nothing_of_a_run(editor: Editor) -> None:
    other = Editor(editor.page.context.new_page(), editor.host, editor.renderer)
    try:
        other.load()
        other.open_api({"1": node("MjesecSweepAxis", parameter="seed", values="1, 2")})
        editor.page.bring_to_front()
        editor.open_api(moons(40))
        editor.queue()
        assert "Images: 40 (" in texts(editor)["1"]
        other.page.wait_for_timeout(500)
        assert texts(other) == {}
    finally:
        other.page.close()


def test_a_report_comes_back_with_its_workflow_and_with_run_after_a_reload(editor: Editor) -> None:
    name = f"again_{next(numbers)}"
    editor.open_workflow(moons(5), name)
    graph: dict[str, Any] = editor.js("() => window.app.graph.serialize()")
    editor.queue()
    shown = texts(editor)
    assert "Images: 5 (" in shown["1"]
    editor.queue()  # nothing is run anew
    assert texts(editor) == shown
    editor.js(LOOK, 1)
    expect(editor.page.locator("span, p").filter(has_text="Images: 5").locator("visible=true").first).to_be_visible()

    editor.new_graph()
    editor.show_workflow(name)
    assert texts(editor) == shown

    editor.load()
    editor.new_graph()
    editor.open_graph(graph)
    assert texts(editor) == {}
    editor.queue()
    assert texts(editor) == shown

    # the host answers a copy, which has an id of its own, from the other's run
    editor.open_graph({**graph, "id": "3f0e7a52-6d0c-4d43-9d38-1f2f1a4b9c57"})
    assert texts(editor) == {}
    editor.queue()
    assert texts(editor) == shown
    assert editor.js(DATASET)


def test_a_report_stands_on_its_node_in_a_subgraph_too(editor: Editor) -> None:
    editor.open_workflow(moons(4), f"within_{next(numbers)}")
    editor.js(INTO_SUBGRAPH, 1)
    editor.queue()
    assert texts(editor) == {}, "the node that stands for the subgraph has none itself"
    editor.js(OPEN_SUBGRAPH)
    editor.settle()
    (shown,) = texts(editor).values()
    assert "Images: 4 (" in shown


def test_a_long_report_is_cut_on_the_node_and_whole_by_its_wire(editor: Editor) -> None:
    given = read(dev.ROOT / "workflows" / "api" / "thesis_train.json").values()
    (config,) = (each["inputs"]["text"] for each in given if each["class_type"] == "MjesecLoadKohyaConfig")
    editor.open_api(
        {
            "1": node(
                "MjesecLoadKohyaConfig", text=config, file="the text below", output_name=editor.renderer, steps=5
            ),
            "2": node("PreviewAny", source=["1", 1]),
        }
    )
    editor.queue()
    outputs = next(reversed(editor.host.get("/history").values()))["outputs"]
    report = [line.rstrip() for line in outputs["2"]["text"][0].split("\n")]
    shown = [line.rstrip() for line in texts(editor)["1"].split("\n")]
    assert shown[:30] == report[:30]
    assert shown[30:] == [f"… and {len(report) - 30} more lines; the output report has all of them"]
    editor.js(LOOK, 1)
    editor.settle()
    editor.shot(f"long_report_{editor.renderer}")
