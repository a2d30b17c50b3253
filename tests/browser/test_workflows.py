"""Every shipped workflow opens clean in the real frontend, in both renderers, and is its API twin there."""

from __future__ import annotations

import itertools
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
    editor, graph, twin = opened
    nodes = {node["id"]: node for node in editor.js(NODES)}
    assert set(nodes) == {node["id"] for node in graph["nodes"]}
    missing = [node["type"] for node in nodes.values() if node["missing"]]
    assert not missing, f"the frontend does not know {missing}"
    for node in graph["nodes"]:
        widgets = nodes[node["id"]]["widgets"]
        assert [value for _, value in widgets] == node.get("widgets_values", []), f"{node['type']}: {widgets}"
    assert editor.prompt() == twin
    assert_nothing_overlaps(editor)


def assert_nothing_overlaps(editor: Editor) -> None:
    for one, other in itertools.combinations(editor.js(BOXES), 2):
        apart = one[3] <= other[1] or other[3] <= one[1] or one[4] <= other[2] or other[4] <= one[2]
        assert apart, f"node {one[0]} overlaps node {other[0]} in the editor: {one}, {other}"
