"""Each of our nodes as the editor makes it anew: sockets, widgets and their values are as the host describes them."""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from typing import Any

import pytest
from browser_editor import Editor, expect

import dev

Json = dict[str, Any]
# how the shipped workflows are kept up to date: the order in which the editor makes sockets and widgets
REFRESH = runpy.run_path(str(dev.ROOT / "workflows" / "refresh.py"))

ADD_ALL = """kinds => {
    let x = 0
    return kinds.map(kind => {
        const node = window.LiteGraph.createNode(kind)
        node.pos = [x, 0]
        x += node.size[0] + 80
        window.app.graph.add(node)
        const known = node.constructor.nodeData.inputs
        return {
            id: node.id, kind, height: node.size[1],
            sockets: node.inputs.filter(slot => !slot.widget).map(slot => slot.name),
            outputs: node.outputs.map(slot => slot.name),
            widgets: (node.widgets ?? []).map(({ name, value, serialize, options }) =>
                ({ name, value: value ?? null, saved: serialize !== false, queued: options?.serialize !== false })),
            explained: Object.values(known).filter(input => input.tooltip).map(input => input.name),
        }
    })
}"""
# node id -> names of the widgets that Vue shows, from above
ROWS = """() => Object.fromEntries([...document.querySelectorAll('[data-node-id]')].map(node => [node.dataset.nodeId,
    [...node.querySelectorAll('[data-testid=node-widget]')].map(row => row.innerText.split('\\n')[0])]))"""
# node id -> top and bottom of every widget that the canvas draws
HEIGHTS = """() => Object.fromEntries(window.app.graph.nodes.map(node => [node.id, (node.widgets ?? [])
    .filter(widget => node.isWidgetVisible(widget)).map(widget => [widget.y, widget.y + widget.computedHeight])]))"""


@pytest.fixture(scope="module")
def described(editor: Editor) -> Json:
    found = editor.host.get("/object_info")
    return {name: info for name, info in found.items() if info["python_module"] == f"custom_nodes.{dev.ROOT.name}"}


@pytest.fixture(scope="module")
def made(editor: Editor, described: Json) -> list[Json]:
    editor.new_graph()
    nodes = editor.js(ADD_ALL, list(described))
    editor.settle()
    return list(nodes)


def widgets_of(info: Json) -> Iterator[tuple[str, Any, bool]]:
    """(name, default, advanced) of every input that is a widget, in order."""
    for name, kind, options in REFRESH["inputs_of"](info):
        if REFRESH["is_widget"](kind, options):
            first = next(iter(options.get("options", [])), None)
            yield name, options.get("default", first if kind == "COMBO" else ""), bool(options.get("advanced"))


def test_sockets_widgets_and_defaults_are_the_described_ones_in_order(made: list[Json], described: Json) -> None:
    for node in made:
        info, kind = described[node["kind"]], node["kind"]
        inputs = list(REFRESH["inputs_of"](info))
        assert node["sockets"] == [name for name, *rest in inputs if not REFRESH["is_widget"](*rest)], kind
        assert node["outputs"] == info["output_name"], kind
        saved = {widget["name"]: widget["value"] for widget in node["widgets"] if widget["saved"]}
        controls = [name for name, *rest in inputs if REFRESH["has_control"](name, *rest)]
        assert len(saved) == len(list(widgets_of(info))) + len(controls), f"{kind}: {saved}"
        shown = [(name, value) for name, value in saved.items() if name in {name for name, *_ in inputs}]
        assert shown == [(name, default) for name, default, _ in widgets_of(info)], kind
        assert set(node["explained"]) == {name for name, *_ in inputs}, f"{kind}: an input has no tooltip"


def test_what_the_extension_adds_comes_last_and_is_neither_saved_nor_queued(made: list[Json], described: Json) -> None:
    added = {}
    for node in made:
        saved = [widget["saved"] for widget in node["widgets"]]
        assert saved == sorted(saved, reverse=True), f"{node['kind']}: {node['widgets']}"
        assert not any(widget["queued"] for widget in node["widgets"] if not widget["saved"]), node["kind"]
        added[node["kind"]] = [widget["name"] for widget in node["widgets"] if not widget["saved"]]
    assert added["MjesecFigure"] and added["MjesecSweep"]


def rows_once_named(editor: Editor) -> Json:
    """The rows of all nodes once each has its text, which on a busy machine comes after the row itself."""
    for _ in range(50):
        rows = editor.js(ROWS)
        if all(name for names in rows.values() for name in names):
            break
        editor.page.wait_for_timeout(100)
    return dict(rows)


def test_every_widget_is_shown_in_its_place_and_advanced_ones_are_folded(
    editor: Editor, made: list[Json], described: Json
) -> None:
    if editor.renderer == "canvas":
        # that renderer folds nothing
        heights = editor.js(HEIGHTS)
        for node in made:
            edges = [edge for widget in heights[str(node["id"])] for edge in widget]
            assert edges == sorted(edges), f"{node['kind']}: widgets overlap: {edges}"
            assert len(edges) == 2 * len(node["widgets"])
            assert not edges or edges[-1] <= node["height"], f"{node['kind']} is too low for its widgets"
        return
    rows = rows_once_named(editor)
    editor.js("() => document.querySelectorAll('[data-testid=advanced-inputs-button]').forEach(each => each.click())")
    editor.settle()
    unfolded = rows_once_named(editor)
    for node in made:
        wanted = list(widgets_of(described[node["kind"]]))
        plain = [name for name, _, advanced in wanted if not advanced]
        assert rows[str(node["id"])][: len(plain)] == plain, node["kind"]
        names = [name for name, *_ in wanted]
        assert unfolded[str(node["id"])][: len(names)] == names, node["kind"]
        # widgets that the extension adds come after all of them
        assert not set(rows[str(node["id"])][len(plain) :]) & set(names)


def test_the_help_page_opens_beside_the_node_with_its_picture(editor: Editor) -> None:
    editor.open_api({"1": {"class_type": "MjesecFigure", "inputs": {}}})
    editor.js("() => window.app.canvas.selectItems(window.app.graph.nodes)")
    editor.command("Comfy.Canvas.FitView")
    editor.page.get_by_test_id("info-button").click()
    page = editor.page.locator(".node-help-content")
    expect(page.get_by_role("heading", name="Errors and cures")).to_be_attached()
    expect(page.get_by_text("Slike iz usporedbe slažu se u mrežu")).to_be_attached()
    editor.page.wait_for_function("() => document.querySelector('.node-help-content img').naturalWidth > 0")
    editor.shot(f"help_{editor.renderer}")
