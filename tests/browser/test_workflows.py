"""Every shipped workflow opens clean in the real frontend, in both renderers, and is its API twin there."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from browser_editor import Editor, read

import dev

FOLDER = dev.ROOT / "workflows"
NAMES = [path.stem for path in sorted(FOLDER.glob("*.json"))]

NODES = """() => window.app.graph.nodes.map(node => ({
    id: Number(node.id), type: node.type, title: node.title, missing: !(node.type in LiteGraph.registered_node_types),
    size: [...node.size], needed: [...node.computeSize()],
    widgets: (node.widgets ?? []).filter(w => w.serialize !== false).map(w => [w.name, w.value]),
}))"""

# node id -> left, top, right, bottom in CSS pixels at the current zoom (canvas renderer: computed)
BOXES = """() => window.app.graph.nodes.map(node => {
    const shown = document.querySelector(`[data-node-id="${node.id}"]`)?.getBoundingClientRect()
    if (shown) return [node.id, shown.left, shown.top, shown.right, shown.bottom]
    const [x, y, w, h] = node.getBounding()
    return [node.id, x, y, x + w, y + h]
})"""

# ids of the notes whose text goes on below their lower edge
CUT_NOTES = """() => [...document.querySelectorAll('[data-node-id] .comfy-markdown-content')]
    .filter(text => text.scrollHeight > text.clientHeight + 1)
    .map(text => text.closest('[data-node-id]').dataset.nodeId)"""


@pytest.fixture(params=NAMES)
def opened(request: pytest.FixtureRequest, editor: Editor) -> tuple[Editor, dict[str, Any], dict[str, Any]]:
    """The editor with a workflow opened from the template browser, the workflow, and its API twin."""
    name: str = request.param
    editor.open_template(name)
    return editor, read(FOLDER / f"{name}.json"), read(FOLDER / "api" / f"{name}.json")


@pytest.mark.parametrize("editor", ["canvas"], indirect=True)
def test_the_template_browser_shows_every_workflow_and_opens_one(editor: Editor) -> None:
    cards = editor.browse_templates("quickstart")
    assert sorted(cards) == NAMES
    assert editor.prompt() == read(FOLDER / "api" / "quickstart.json")


def test_a_template_opens_clean_and_is_its_api_twin(opened: tuple[Editor, dict[str, Any], dict[str, Any]]) -> None:
    assert not faults_of(*opened)


def faults_of(editor: Editor, graph: dict[str, Any], twin: dict[str, Any]) -> list[str]:
    """What is wrong with the workflow that the editor shows: a sentence each."""
    shown = {node["id"]: node for node in editor.js(NODES)}
    found = [f"the frontend does not know {node['type']}" for node in shown.values() if node["missing"]]
    if shown.keys() != {node["id"] for node in graph["nodes"]}:
        found.append(f"the editor shows the nodes {sorted(shown)}")
    for node in graph["nodes"]:
        widgets = shown.get(node["id"], {"widgets": []})["widgets"]
        if [value for _, value in widgets] != node.get("widgets_values", []):
            found.append(f"node {node['id']} ({node['type']}) has other widgets: {widgets}")
    prompt = editor.prompt()
    for key in sorted(prompt.keys() | twin.keys()):
        if prompt.get(key) != twin.get(key):
            found.append(f"node {key} is {prompt.get(key)} in the editor and {twin.get(key)} in the API twin")
    found += [f"the text of note {node} is cut" for node in editor.js(CUT_NOTES)]
    return [*found, *overlaps(editor)]


def overlaps(editor: Editor) -> Iterator[str]:
    for one, other in itertools.combinations(editor.js(BOXES), 2):
        apart = one[3] <= other[1] or other[3] <= one[1] or one[4] <= other[2] or other[4] <= one[2]
        if not apart:
            yield f"node {one[0]} overlaps node {other[0]} in the editor: {one}, {other}"


def unknown_node(graph: dict[str, Any]) -> None:
    node_of(graph, "MjesecFigure")["type"] = "MjesecNoSuchNode"


def other_id(graph: dict[str, Any]) -> None:
    """As if a node had been made anew: its links follow it."""
    figure = node_of(graph, "MjesecFigure")
    for link in graph["links"]:
        link[1:4:2] = [99 if end == figure["id"] else end for end in link[1:4:2]]
    figure["id"] = 99


def swapped_values(graph: dict[str, Any]) -> None:
    values = node_of(graph, "MjesecSweep")["widgets_values"]
    values[0], values[1] = values[1], values[0]


def lost_value(graph: dict[str, Any]) -> None:
    """As if an input had been put before the others and the workflow been left as it was."""
    node_of(graph, "MjesecSweep")["widgets_values"].pop(0)


def lost_link(graph: dict[str, Any]) -> None:
    (socket,) = (slot for slot in node_of(graph, "MjesecFigure")["inputs"] if slot["link"] is not None)
    graph["links"] = [link for link in graph["links"] if link[0] != socket["link"]]
    node_of(graph, "MjesecSweep")["outputs"][0]["links"], socket["link"] = [], None


def stacked(graph: dict[str, Any]) -> None:
    node_of(graph, "MjesecFigure")["pos"] = node_of(graph, "MjesecSweep")["pos"]


def node_of(graph: dict[str, Any], kind: str) -> dict[str, Any]:
    return next(node for node in graph["nodes"] if node["type"] == kind)


BREAKS: dict[Callable[[dict[str, Any]], None], str] = {
    unknown_node: "the frontend does not know MjesecNoSuchNode",
    other_id: "node 99 is .* in the editor and None in the API twin",
    swapped_values: "node .* is .*'prompt': '', 'negative': 'moon'.* in the API twin",
    lost_value: r"node .* \(MjesecSweep\) has other widgets",
    lost_link: "node .* in the editor and .*'grid': .* in the API twin",
    stacked: "node .* overlaps node .* in the editor",
}


@pytest.mark.parametrize("editor", ["canvas"], indirect=True)
@pytest.mark.parametrize("spoil", BREAKS, ids=lambda spoil: spoil.__name__)
def test_a_workflow_that_is_broken_on_purpose_is_found_out(
    editor: Editor, spoil: Callable[[dict[str, Any]], None]
) -> None:
    graph, twin = read(FOLDER / "fig07_short_prompt.json"), read(FOLDER / "api" / "fig07_short_prompt.json")
    editor.open_graph(graph)
    assert not faults_of(editor, graph, twin)
    spoil(graph)
    editor.open_graph(graph)
    faults = faults_of(editor, graph, twin)
    assert any(re.search(BREAKS[spoil], fault) for fault in faults), faults
    # the frontend complains of such a graph by itself
    editor.page.keyboard.press("Escape")
    editor.problems.clear()
