"""The figure viewer: from the node's button to the cells, by mouse and by keyboard, and on to a plain graph."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from browser_editor import Editor, expect
from host_graphs import node, sweep
from host_server import Host
from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Locator

AXES = [("CFG scale", "1, 4"), ("seed", "1, 2"), ("sampling steps", "1, 2")]

# presses Escape twice in one task, and returns how many of the two the editor heard
TWO_ESCAPES = """() => {
    let heard = 0
    const hear = () => { heard += 1 }
    window.addEventListener('keydown', hear)
    for (const _ of [1, 2]) document.body.dispatchEvent(new KeyboardEvent('keydown', { key: 'Escape', bubbles: true }))
    window.removeEventListener('keydown', hear)
    return heard
}"""

# whether every node lies within the canvas
IN_VIEW = """() => {
    const { ds, canvas, graph } = window.app.canvas
    const { width, height } = canvas.getBoundingClientRect()
    return graph.nodes.every(({ pos, size }) => {
        const [left, top] = [0, 1].map(at => (pos[at] + ds.offset[at]) * ds.scale)
        return left >= 0 && top >= 0 && left + size[0] * ds.scale <= width && top + size[1] * ds.scale <= height
    })
}"""


@pytest.fixture
def viewer(editor: Editor) -> Iterator[Locator]:
    """The viewer, opened by the button of a Figure that has just run."""
    editor.open_api(sweep("(lora input)", AXES, width=128, height=128))
    editor.queue()
    editor.press("MjesecFigure", "Explore cells")
    dialog = editor.page.get_by_role("dialog", name="Figure")
    expect(dialog.get_by_role("gridcell")).to_have_count(4)
    yield dialog
    editor.page.keyboard.press("Escape")


def facts(viewer: Locator) -> dict[str, str]:
    names, values = (viewer.locator(f".mj-facts {tag}").all_inner_texts() for tag in ("dt", "dd"))
    return dict(zip(names, values, strict=True))


def test_a_figures_cells_are_explored_and_one_becomes_a_graph(viewer: Locator, editor: Editor) -> None:
    assert viewer.get_by_role("columnheader").all_inner_texts() == ["1", "4"]
    assert viewer.get_by_role("rowheader").all_inner_texts() == ["1", "2"]
    cell = viewer.get_by_role("gridcell", name="CFG scale 4, Seed 2, Sampling steps 1")
    expect(cell.locator("img")).to_have_js_property("naturalWidth", 128)

    # by keyboard from the first cell, which has the focus
    editor.page.keyboard.press("ArrowRight")
    editor.page.keyboard.press("ArrowDown")
    expect(cell).to_be_focused()
    editor.shot("figure_viewer")
    assert {"CFG scale": "4", "Seed": "2", "prompt": "moon"}.items() <= facts(viewer).items()
    editor.page.keyboard.press("g")
    expect(viewer).to_be_hidden()
    graph = editor.prompt()
    sampler = next(node for node in graph.values() if node["class_type"] == "KSampler")
    assert {"cfg": 4, "seed": 2, "steps": 1, "sampler_name": "euler_ancestral"}.items() <= sampler["inputs"].items()
    # it is all in view, and stays the cell's own when it is queued again
    editor.page.wait_for_function(IN_VIEW)
    editor.shot(f"cell_as_graph_{editor.renderer}")
    editor.queue()
    assert editor.prompt() == graph


def test_two_cells_are_compared_and_axes_change_places(viewer: Locator, editor: Editor) -> None:
    cells = viewer.get_by_role("gridcell")
    cells.nth(0).click()
    expect(cells.nth(0)).to_have_attribute("aria-selected", "true")
    cells.nth(3).click(modifiers=["Shift"])
    slider = viewer.get_by_role("slider", name="Border")
    slider.fill("20")
    assert viewer.locator(".mj-slider").evaluate("frame => frame.style.getPropertyValue('--at')") == "20%"
    viewer.get_by_role("button", name="difference").click()
    expect(viewer.get_by_text("Mean difference")).to_be_visible()
    viewer.get_by_role("button", name="slider").click()
    editor.shot("compare")
    viewer.get_by_role("button", name="all cells").click()

    viewer.get_by_role("combobox", name="columns", exact=True).select_option("Sampling steps")
    assert viewer.get_by_role("columnheader").all_inner_texts() == ["1", "2"]
    viewer.get_by_role("combobox", name="CFG scale", exact=True).select_option("4")
    expect(cells.nth(1)).to_have_accessible_name("CFG scale 4, Seed 1, Sampling steps 2")
    # the first Escape closes the viewer, and one that follows at once is the editor's already
    assert editor.js(TWO_ESCAPES) == 1
    expect(viewer).to_be_hidden()


def test_two_cells_are_compared_by_keyboard(viewer: Locator, editor: Editor) -> None:
    cells = viewer.get_by_role("gridcell")
    expect(cells.first).to_be_focused()
    editor.page.keyboard.press("Enter")
    expect(viewer.get_by_text("Shift+Enter or Shift+click on another cell")).to_be_visible()
    editor.page.keyboard.press("ArrowRight")
    editor.page.keyboard.press("Shift+Enter")
    slider = viewer.get_by_role("slider", name="Border")
    expect(slider).to_be_focused()
    for _ in range(5):
        editor.page.keyboard.press("ArrowLeft")
    assert viewer.locator(".mj-slider").evaluate("frame => frame.style.getPropertyValue('--at')") == "45%"
    back = viewer.get_by_role("button", name="all cells")
    for _ in range(4):
        editor.page.keyboard.press("Shift+Tab")
    expect(back).to_be_focused()
    editor.page.keyboard.press("Enter")
    # back at the cell that was compared
    expect(cells.nth(1)).to_be_focused()


def test_the_facts_beside_the_button_are_of_the_cell_that_it_opens(viewer: Locator, editor: Editor) -> None:
    cells, button = viewer.get_by_role("gridcell"), viewer.get_by_role("button", name="Open as KSampler graph")
    cells.nth(0).click()
    cells.nth(1).hover()
    assert facts(viewer)["CFG scale"] == "4"
    button.hover()
    assert facts(viewer)["CFG scale"] == "1"
    expect(viewer.locator(".mj-chosen")).to_have_text("A: CFG scale 1, Seed 1, Sampling steps 1")
    # by keys: another cell has the focus, then none
    cells.nth(1).focus()
    assert facts(viewer)["CFG scale"] == "4"
    button.focus()
    assert facts(viewer)["CFG scale"] == "1"
    cells.nth(1).focus()
    editor.shot("figure_chosen")
    editor.page.keyboard.press("g")
    expect(viewer).to_be_hidden()
    (cfg,) = (each["inputs"]["cfg"] for each in editor.prompt().values() if each["class_type"] == "KSampler")
    assert cfg == 1


def test_after_a_comparison_the_grid_is_where_it_was(viewer: Locator, editor: Editor) -> None:
    cells, scroller = viewer.get_by_role("gridcell"), viewer.locator(".mj-scroller")
    for _ in range(8):
        editor.page.keyboard.press("+")
    cells.nth(3).click()
    cells.nth(2).click(modifiers=["Shift"])
    scroller.wait_for(state="detached")
    viewer.get_by_role("button", name="all cells").click()
    expect(cells.nth(2)).to_be_focused()
    assert scroller.evaluate("place => place.scrollTop") > 100
    # the Tab key leads to it, and to no other
    assert cells.evaluate_all("cells => cells.map(cell => cell.tabIndex)") == [-1, -1, 0, -1]


@pytest.mark.parametrize("width", [400, 600])
def test_in_a_narrow_window_the_facts_stand_below_the_cells(viewer: Locator, editor: Editor, width: int) -> None:
    with editor.window(width, 800):
        viewer.get_by_role("button", name="fit").click()
        viewer.get_by_role("gridcell").first.click()
        editor.shot(f"figure_{width}")
        main, side = (viewer.locator(place).bounding_box() for place in (".mj-main", ".mj-side"))
        assert main and side
        assert main["width"] > 0.9 * width and main["height"] > 300
        assert side["y"] >= main["y"] + main["height"] and side["width"] == main["width"]
        for cell in viewer.get_by_role("gridcell").all():
            expect(cell).to_be_in_viewport(ratio=0.9)
        expect(viewer.get_by_role("button", name="Close")).to_be_in_viewport(ratio=1)
        viewer.get_by_role("gridcell").last.click(modifiers=["Shift"])
        editor.shot(f"compare_{width}")
        expect(viewer.get_by_role("button", name="all cells")).to_be_in_viewport(ratio=1)


HOSTILE = "<img src=x onerror=window.hostile=1>"


def put_big_sweep(host: Host, side: int) -> str:
    """A sweep of side x side cells on the host's disk, every text of it hostile; returns its name."""
    name, work = "20260101-000000-000000000", host.output / "mjesec"
    values = list(range(side))
    axes = [
        {"parameter": name, "label": f"{name} {HOSTILE}", "values": values, "texts": [f"{n} {HOSTILE}" for n in values]}
        for name in ("cfg", "seed")
    ]
    cells = []
    picture = Image.new("RGB", (64, 64), "teal")
    for at in itertools.product(values, values):
        key = f"{at[0] * side + at[1]:064x}"
        path = work / "cells" / key[:2] / f"{key}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
        cells.append({"index": at, "values": {}, "key": path.stem, "parameters": {"prompt": HOSTILE}})
    path = work / "sweeps" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"axes": axes, "cells": cells}), encoding="utf-8")
    return name


def test_a_big_grid_fetches_what_is_in_view_and_hostile_texts_stay_texts(editor: Editor) -> None:
    name = put_big_sweep(editor.host, 20)
    fetched: set[str] = set()
    editor.page.on("request", lambda request: "/mjesec/cells/" in request.url and fetched.add(request.url))
    editor.open_api({"1": {"class_type": "MjesecSweep", "inputs": {}}})
    editor.js("name => { window.app.graph.nodes[0].properties.mjesec_sweep = name }", name)
    editor.press("MjesecSweep", "Explore cells")
    viewer = editor.page.get_by_role("dialog", name="Figure")
    cells = viewer.get_by_role("gridcell")
    expect(cells).to_have_count(400)
    expect(cells.first.locator("img")).to_have_js_property("naturalWidth", 64)
    for _ in range(12):
        editor.page.keyboard.press("+")
        editor.settle()  # cells that went out of view are not fetched larger
    fetched.clear()
    cells.last.scroll_into_view_if_needed()
    expect(cells.last.locator("img")).to_have_attribute("src", re.compile("size=512$"))
    assert 0 < len(fetched) < 100
    # headers stay where they are
    corner, header = (viewer.locator(place).last.bounding_box() for place in (".mj-corner", "[role=columnheader]"))
    scroller = viewer.locator(".mj-scroller").bounding_box()
    assert corner and header and scroller and header["y"] == corner["y"] == scroller["y"]

    assert HOSTILE in viewer.get_by_role("columnheader").first.inner_text()
    assert viewer.locator(".mj-cells img").count() == 400
    assert editor.js("() => window.hostile") is None
    editor.shot("grid_20x20")
    editor.page.keyboard.press("Escape")


def test_a_long_prompt_beside_a_row_leaves_the_row_as_high_as_its_cells(editor: Editor) -> None:
    name = put_big_sweep(editor.host, 3)
    path = editor.host.output / "mjesec" / "sweeps" / f"{name}.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["axes"][1]["texts"] = [f"{number} " + "a thin crescent over craters, " * 20 for number in range(3)]
    path.write_text(json.dumps(manifest), encoding="utf-8")
    editor.open_api({"1": {"class_type": "MjesecSweep", "inputs": {}}})
    editor.js("name => { window.app.graph.nodes[0].properties.mjesec_sweep = name }", name)
    editor.press("MjesecSweep", "Explore cells")
    viewer = editor.page.get_by_role("dialog", name="Figure")
    viewer.get_by_role("gridcell").first.click()
    editor.shot("long_prompts")
    cell, header = (viewer.locator(place).first.bounding_box() for place in (".mj-cell", ".mj-rowheader"))
    assert cell and header and header["height"] <= cell["height"] + 1
    expect(viewer.get_by_role("rowheader").first).to_have_attribute("title", manifest["axes"][1]["texts"][0])
    editor.page.keyboard.press("Escape")


def test_a_figure_of_no_sweep_says_so_and_the_date_stands_in_its_files_names(editor: Editor) -> None:
    editor.open_api(
        {
            "1": node("EmptyImage", width=64, height=64, batch_size=1, color=0),
            "2": node("MjesecAddToGrid", image=["1", 0], name="black"),
            "3": sweep("", [])["figure"] | {"inputs": {**sweep("", [])["figure"]["inputs"], "grid": ["2", 0]}},
        }
    )
    editor.js("""() => {
        const [figure] = window.app.graph.nodes.filter(node => node.type === 'MjesecFigure')
        figure.properties.mjesec_sweep = '20261124-032943-348900158'
        figure.widgets.find(widget => widget.name === 'filename_prefix').value = 'dated/%date:yyyy-MM%'
    }""")
    (prefix,) = {entry["inputs"].get("filename_prefix") for entry in editor.prompt().values()} - {None}
    assert re.fullmatch(r"dated/\d{4}-\d{2}", prefix)
    editor.queue()
    assert list((editor.host.output / "dated").glob(f"{prefix.removeprefix('dated/')}_00001_.png"))
    editor.press("MjesecFigure", "Explore cells")
    viewer = editor.page.get_by_role("dialog", name="Figure")
    expect(viewer).to_contain_text("This figure shows no sweep")
    expect(viewer.get_by_role("gridcell")).to_have_count(0)
    editor.shot(f"no_sweep_{editor.renderer}")
    editor.page.keyboard.press("Escape")
