"""The training panel: a run is watched and steered by clicking, and what it shows is true whatever happens."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from browser_editor import Editor, expect
from host_graphs import node, training
from host_server import Host

import dev

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

HOSTILE = "<img src=x onerror=window.hostile=1>"
SET_WIDGETS = """changes => {
    for (const [kind, name, value] of changes) {
        const widget = window.app.graph.nodes.find(node => node.comfyClass === kind).widgets.find(w => w.name === name)
        widget.value = value
        widget.callback?.(value)
    }
}"""
LOOK_AT_PANEL = """() => {
    const node = window.app.canvas.graph.nodes.find(node => node.comfyClass === 'MjesecTrainLora')
    window.app.canvas.ds.scale = 0.9
    window.app.canvas.centerOnNode(node)
    window.app.canvas.setDirty(true, true)
}"""
TOGGLE_TAB = "() => window.app.extensionManager.command.execute('Workspace.ToggleBottomPanelTab.mjesec-training')"
# what the page knows: the extension's modules are there once, for whoever imports them
STORE = f"const {{ store }} = await import('/extensions/{dev.ROOT.name}/training/live.mjs')"
STEPS_KNOWN = f"async id => {{ {STORE}; return store.details(id).curve.points.map(point => point.step) }}"
LISTENING = f"async () => {{ {STORE}; return store.listening }}"
# how many pixels of the chart are drawn
INK = """panel => {
    const canvas = panel.querySelector('canvas')
    const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height)
    return data.filter((value, at) => at % 4 === 3 && value > 0).length
}"""
# how bright the grey of a chart's axes and grid is, 0 to 255
GREY = """panel => {
    const canvas = panel.querySelector('canvas')
    const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height)
    let [sum, count] = [0, 0]
    for (let at = 0; at < data.length; at += 4) {
        const [least, most] = [Math.min(...data.slice(at, at + 3)), Math.max(...data.slice(at, at + 3))]
        if (data[at + 3] > 20 && most - least < 12) [sum, count] = [sum + most, count + 1]
    }
    return sum / count
}"""
SET_PALETTE = "name => window.app.extensionManager.setting.set('Comfy.ColorPalette', name)"
INTO_SUBGRAPH = """id => {
    const node = window.app.graph.nodes.find(node => String(node.id) === id)
    window.app.graph.convertToSubgraph(new Set([node]))
}"""
ROOT = "() => window.app.canvas.setGraph(window.app.graph)"
SUBGRAPH = "() => window.app.canvas.openSubgraph(window.app.graph.nodes.find(node => node.subgraph).subgraph)"
CHANGE_TITLE = "() => { window.app.graph.nodes[0].title = 'changed' }"
# as the editor notes whatever a user does, to undo it and to keep it in its tab
NOTE_CHANGE = "() => window.app.extensionManager.workflow.activeWorkflow.changeTracker.captureCanvasState()"
numbers = itertools.count(int(time.time()))


def panel_of(page: Page) -> Locator:
    return page.locator(".mj-on-node").filter(visible=True)


def fact(panel: Locator, name: str) -> str:
    return (
        panel.locator(".mj-run-facts div")
        .filter(has=panel.page.get_by_text(name, exact=True))
        .locator("dd")
        .inner_text()
    )


def step_of(panel: Locator) -> int:
    return int(fact(panel, "step").split()[0])


def wait_for_step(panel: Locator, step: int) -> None:
    panel.page.wait_for_function(
        "([panel, step]) => parseInt(panel.querySelector('.mj-run-facts dd')?.textContent) >= step",
        arg=[panel.element_handle(), step],
        timeout=60_000,
    )


def expect_state(panel: Locator, state: str) -> None:
    expect(panel.locator(".mj-run-state")).to_have_text(state, timeout=60_000)


def press(panel: Locator, label: str) -> None:
    panel.get_by_role("button", name=label, exact=True).click()


def wait_until_idle(host: Host) -> None:
    ends = time.monotonic() + 60
    while any(host.get("/queue").values()):
        assert time.monotonic() < ends
        time.sleep(0.1)


def run_named(host: Host, name: str) -> dict[str, Any]:
    return next(run for run in host.get("/mjesec/runs")["runs"] if run["name"] == name)


def long_training(name: str) -> dict[str, Any]:
    """A training that nobody waits for, with samples when they are asked for."""
    graph = training(output_name=name, steps=5000, seed=next(numbers))
    graph["train"]["inputs"]["samples"] = ["samples", 0]
    graph["samples"] = node(
        "MjesecTrainingSamples", prompts="moon", negative="", every=0, width=128, height=128, seed=3, steps=1, cfg=1.0,
        sampler="euler", scheduler="normal", strength=1.0,
    )  # fmt: skip
    return {str(number): each for number, each in enumerate(_numbered(graph), 1)}


def _numbered(graph: dict[str, Any]) -> list[dict[str, Any]]:
    """The nodes with their links by number, as the editor has them."""
    at = {name: str(number) for number, name in enumerate(graph, 1)}
    text = json.dumps(list(graph.values()))
    for name, number in at.items():
        text = text.replace(f'["{name}", ', f'["{number}", ')
    return list(json.loads(text))


def open_workflow(editor: Editor, graph: dict[str, Any], name: str) -> None:
    editor.open_workflow(graph, name)
    editor.js(LOOK_AT_PANEL)


@pytest.fixture
def running(editor: Editor) -> Iterator[str]:
    """The id of a run that has been queued by the button and trains; its panel is in view."""
    name = f"watched_{next(numbers)}"
    open_workflow(editor, long_training(name), name)
    editor.press_run()
    wait_for_step(panel_of(editor.page), 2)
    yield run_named(editor.host, name)["id"]
    editor.host.interrupt()
    wait_until_idle(editor.host)


def test_the_quickstart_is_watched_paused_and_stopped_by_clicking(editor: Editor) -> None:
    page, host, name = editor.page, editor.host, f"clicked_{next(numbers)}"
    editor.open_template("quickstart")
    changes = [
        ("MjesecMoonDataset", "count", 8),
        ("MjesecTrainSettings", "output_name", name),
        ("MjesecTrainSettings", "seed", next(numbers)),
        ("MjesecTrainSettings", "batch_size", 2),
        ("MjesecTrainSettings", "validation_images", 1),
        ("MjesecSweep", "steps", 1),
        ("MjesecSweep", "mode", "dry run"),
    ]
    editor.js(SET_WIDGETS, changes)
    editor.js(LOOK_AT_PANEL)
    panel = panel_of(page)
    # nothing yet, or the run that the other renderer's turn of this test left
    expect(panel).to_contain_text(re.compile("Queue the graph|stopped"))
    editor.press_run()

    expect_state(panel, "training")
    wait_for_step(panel, 3)
    blank = panel.evaluate(INK)
    wait_for_step(panel, 12)
    assert panel.evaluate(INK) != blank
    # 700 steps, of which 4 see each of the 7 images once
    assert fact(panel, "epoch").endswith("of 175")
    assert re.fullmatch(r"[\d.]+ (steps/s|s/step)", fact(panel, "speed"))
    assert re.fullmatch(r"[\d:]+", fact(panel, "left"))
    assert re.fullmatch(r"[\d.]+ [GM]B", fact(panel, "memory"))
    expect(panel.get_by_role("button", name="Sample now")).to_be_disabled()

    press(panel, "Pause")
    expect_state(panel, "paused")
    paused = step_of(panel)
    expect(panel.get_by_role("button", name="Save now")).to_be_disabled()
    press(panel, "Resume")
    expect_state(panel, "training")
    wait_for_step(panel, paused + 3)
    editor.shot("training_panel")
    press(panel, "Stop and save")
    expect_state(panel, "stopped")
    lora = f"{name}-step{step_of(panel):08d}.safetensors"
    expect(panel.locator(".mj-run-line")).to_contain_text(lora)
    assert (host.output / "loras" / lora).is_file()
    wait_until_idle(host)
    # what the panel says is not the prompt's: nothing was added to the node
    trained = next(each for each in editor.prompt().values() if each["class_type"] == "MjesecTrainLora")
    assert set(trained["inputs"]) == {"model", "clip", "vae", "dataset", "settings"}


def test_a_reload_in_mid_training_leads_back_to_it(running: str, editor: Editor) -> None:
    before = step_of(panel_of(editor.page))
    editor.load()
    editor.js(LOOK_AT_PANEL)
    panel = panel_of(editor.page)
    wait_for_step(panel, before + 3)
    expect_state(panel, "training")
    assert_nothing_is_missing(editor.page, running)


def assert_nothing_is_missing(page: Page, run: str) -> None:
    steps = page.evaluate(STEPS_KNOWN, run)
    assert steps == list(range(1, len(steps) + 1))


@pytest.mark.parametrize("editor", ["canvas"], indirect=True)
def test_two_tabs_show_and_steer_the_same_run(running: str, editor: Editor) -> None:
    other = Editor(editor.page.context.new_page(), editor.host, editor.renderer)
    other.load()
    other.js(TOGGLE_TAB)
    listed = other.page.get_by_role("navigation", name="Training runs").get_by_role("button").first
    expect(listed).to_contain_text(run_of(editor.host, running)["name"])
    there, here = other.page.locator(".mj-training-tab .mj-run"), panel_of(editor.page)
    wait_for_step(there, 3)
    assert_nothing_is_missing(other.page, running)
    other.shot("training_tab")
    press(there, "Pause")
    expect_state(here, "paused")
    press(here, "Resume")
    expect_state(there, "training")
    # a tab that is closed leaves nobody listening
    other.js(TOGGLE_TAB)
    other.js("() => window.app.graph.clear()")
    assert other.js(LISTENING) == 0
    assert not other.problems
    other.page.close()


def run_of(host: Host, run: str) -> dict[str, Any]:
    return dict(host.get(f"/mjesec/runs/{run}")["run"])


@pytest.mark.parametrize("editor", ["canvas"], indirect=True)
def test_a_lost_connection_leaves_no_gap(running: str, editor: Editor) -> None:
    panel = panel_of(editor.page)
    before = step_of(panel)
    with editor.page.expect_request(re.compile(rf"/mjesec/runs/{running}\?since=\d+")):
        editor.js("() => window.app.api.socket.close()")
    wait_for_step(panel, before + 5)
    assert_nothing_is_missing(editor.page, running)


def test_samples_appear_when_asked_for_and_are_enlarged_and_a_refusal_is_told(running: str, editor: Editor) -> None:
    panel = panel_of(editor.page)
    press(panel, "Sample now")
    thumbnail = panel.get_by_role("button", name=re.compile(r"step \d+: moon"))
    expect(thumbnail.locator("img")).to_have_js_property("naturalWidth", 128, timeout=60_000)
    editor.shot("training_samples")
    thumbnail.click()
    dialog = editor.page.get_by_role("dialog", name="Sample image")
    expect(dialog.locator("figcaption")).to_have_text(re.compile(r"step \d+: moon"))
    editor.page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    # what another program asked for in the meantime, before the page has heard of it
    route = "**/mjesec/runs/*/pause"
    refusal = json.dumps({"error": f"The run is stopping already. {HOSTILE}"})
    editor.page.route(route, lambda route: route.fulfill(status=409, content_type="application/json", body=refusal))
    press(panel, "Pause")
    expect(panel.get_by_role("alert")).to_have_text(f"The run is stopping already. {HOSTILE}")
    editor.page.unroute(route)
    assert all("409" in problem for problem in editor.problems)
    editor.problems.clear()


class TwoRuns:
    """A workflow of two trainings, the second in a subgraph; both have run."""

    def __init__(self, editor: Editor) -> None:
        self.editor = editor
        self.names = [f"first_{next(numbers)}", f"second_{next(numbers)}"]
        self.title = f"two {self.names[0]}"
        self.graph: dict[str, Any] = {}
        for at, name in enumerate(self.names):
            one = _numbered(training(output_name=name, steps=1 + at, seed=next(numbers)))
            text = re.sub(r'\["(\d)", ', lambda found, at=at: f'["{int(found[1]) + 10 * at}", ', json.dumps(one))
            self.graph |= {str(number + 10 * at): each for number, each in enumerate(json.loads(text), 1)}
        open_workflow(editor, self.graph, self.title)
        editor.js(INTO_SUBGRAPH, "14")
        editor.queue()
        editor.js(NOTE_CHANGE)

    def expect_shown(self) -> None:
        """Each node shows its own run; afterwards the whole graph is in view."""
        for at, where in enumerate((ROOT, SUBGRAPH)):
            self.editor.js(where)
            self.editor.js(LOOK_AT_PANEL)
            panel = panel_of(self.editor.page)
            expect(panel.locator(".mj-run-name")).to_have_text(self.names[at])
            assert step_of(panel) == 1 + at
        self.editor.js(ROOT)


def test_every_node_shows_its_own_run_also_in_a_subgraph(editor: Editor) -> None:
    two = TwoRuns(editor)
    two.expect_shown()
    assert ":" in run_named(editor.host, two.names[1])["node_id"]

    # another workflow with a node of the same id has had no run
    open_workflow(editor, {name: two.graph[name] for name in "1234"}, "other")
    expect(panel_of(editor.page)).to_contain_text("Queue the graph")


def test_a_run_that_has_ended_is_shown_however_its_graph_is_loaded_again(editor: Editor) -> None:
    two = TwoRuns(editor)
    saved = editor.js("() => window.app.graph.serialize()")
    editor.new_graph()
    editor.show_workflow(two.title)
    two.expect_shown()
    # a change is taken back: the editor loads the whole graph that it noted before
    editor.js(CHANGE_TITLE)
    editor.js(NOTE_CHANGE)
    editor.command("Comfy.Undo")
    editor.page.wait_for_function("() => !window.app.graph.nodes.some(node => node.title === 'changed')")
    two.expect_shown()
    # under another id, as from somebody else, it still remembers its runs
    editor.new_graph()
    editor.open_graph({**saved, "id": str(uuid.uuid4())})
    two.expect_shown()


def test_a_panel_that_leaves_the_graph_leaves_nothing_behind(editor: Editor) -> None:
    two = TwoRuns(editor)
    two.expect_shown()
    outer = panel_of(editor.page)
    editor.js(LOOK_AT_PANEL)
    expect(outer.locator(".uplot")).to_have_count(1)
    kept = outer.element_handle()
    editor.js("() => window.app.graph.remove(window.app.graph.nodes.find(node => node.type === 'MjesecTrainLora'))")
    assert kept.query_selector(".uplot") is None
    editor.js(SUBGRAPH)
    editor.js(LOOK_AT_PANEL)
    expect(panel_of(editor.page).locator(".uplot")).to_have_count(1)
    kept = panel_of(editor.page).element_handle()
    editor.js(ROOT)
    editor.new_graph()
    # nodes in a subgraph are not told that all was cleared: they find it out
    editor.js(f"async () => {{ {STORE}; await store.refresh() }}")
    assert kept.query_selector(".uplot") is None
    assert editor.js(LISTENING) == 0


def put_hostile_run(host: Host) -> str:
    """The log of a run whose every text is hostile, and a sample image of such a name; returns the run's id."""
    run, samples = "f0" * 16, host.output / "mjesec" / "samples" / "hostile"
    samples.mkdir(parents=True, exist_ok=True)
    (samples / f"{HOSTILE}.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", "utf-8")
    file = {"filename": f"{HOSTILE}.svg", "subfolder": "mjesec/samples/hostile", "type": "output", "prompt": HOSTILE}
    facts = {
        "id": run,
        "name": f"name {HOSTILE}",
        "steps": 9,
        "steps_per_epoch": 3,
        "time": 1.0,
        "workflow_id": HOSTILE,
    }
    records = [
        {"event": "begin", "step": 0, **facts, "node_id": HOSTILE},
        {"event": "step", "step": 1, "loss": 0.5, "smoothed_loss": 0.5, "lr": {HOSTILE: 1e-4}, "seconds_per_step": 1.0},
        {"event": "sample", "step": 1, "files": [file]},
        {
            "event": "end",
            "step": 1,
            "state": "failed",
            "message": f"message {HOSTILE}",
            "file": f"{HOSTILE}.safetensors",
        },
    ]
    path = host.output / "mjesec" / "runs" / run / "log.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return run


@pytest.mark.parametrize("editor", ["canvas"], indirect=True)
def test_hostile_texts_of_a_log_stay_texts(editor: Editor) -> None:
    put_hostile_run(editor.host)
    editor.load()
    editor.js(TOGGLE_TAB)
    tab = editor.page.locator(".mj-training-tab")
    tab.get_by_role("button", name=f"name {HOSTILE}").click()
    panel = tab.locator(".mj-run")
    expect(panel.locator(".mj-run-name")).to_have_text(f"name {HOSTILE}")
    expect(panel.locator(".mj-run-line")).to_have_text(f"message {HOSTILE} {HOSTILE}.safetensors")
    expect(panel.locator(".mj-legend")).to_contain_text(f"lr {HOSTILE}")
    panel.get_by_role("button", name=f"step 1: {HOSTILE}").click()
    dialog = editor.page.get_by_role("dialog", name="Sample image")
    expect(dialog.locator("figcaption")).to_have_text(f"step 1: {HOSTILE}")
    assert editor.page.locator(".mj-training-tab img, dialog img").count() == 2
    assert editor.js("() => window.hostile") is None
    editor.page.keyboard.press("Escape")
    editor.js(TOGGLE_TAB)


@pytest.mark.parametrize("editor", ["canvas"], indirect=True)
def test_an_open_chart_takes_the_colours_of_another_theme(editor: Editor) -> None:
    put_hostile_run(editor.host)
    editor.load()
    editor.js(TOGGLE_TAB)
    tab = editor.page.locator(".mj-training-tab")
    tab.get_by_role("button", name=f"name {HOSTILE}").click()
    expect(tab.locator(".mj-legend")).to_contain_text("smoothed")
    editor.page.wait_for_function(f"panel => ({GREY})(panel) > 150", arg=tab.element_handle())
    try:
        editor.js(SET_PALETTE, "light")
        editor.page.wait_for_function(f"panel => ({GREY})(panel) < 130", arg=tab.element_handle())
        editor.shot("training_tab_other_theme")
    finally:
        editor.js(SET_PALETTE, "dark")
    editor.page.wait_for_function(f"panel => ({GREY})(panel) > 150", arg=tab.element_handle())
    editor.js(TOGGLE_TAB)


@pytest.fixture
def old_runs(editor: Editor) -> Iterator[list[str]]:
    """Ids of many runs of long ago, the oldest first; the others' names have no blank in them."""
    folders = []
    for number in range(205):
        run = f"{number:032x}"
        name = f"moon of {number}" if number % 100 == 0 else f"{'much_too_long_' * 12}{number}"
        begin = {"event": "begin", "step": 0, "id": run, "name": name, "steps": 2, "steps_per_epoch": 2, "time": number}
        step = {"event": "step", "step": 1, "loss": 0.5, "smoothed_loss": 0.5, "lr": {}, "seconds_per_step": 1.0}
        path = editor.host.output / "mjesec" / "runs" / run / "log.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(record) + "\n" for record in (begin, step)), "utf-8")
        os.utime(path, (number, number))
        folders.append(path.parent)
    yield [folder.name for folder in folders]
    for folder in folders:
        shutil.rmtree(folder)


@pytest.mark.parametrize("editor", ["canvas"], indirect=True)
def test_a_run_too_old_for_the_list_is_shown_by_its_node_and_the_others_are_counted(
    editor: Editor, old_runs: list[str]
) -> None:
    editor.load()
    open_workflow(editor, long_training("old"), f"old {next(numbers)}")
    graph = editor.js("() => window.app.graph.serialize()")
    trained = next(each for each in graph["nodes"] if each["type"] == "MjesecTrainLora")
    trained["properties"]["mjesec_run"] = old_runs[0]
    editor.open_graph({**graph, "id": str(uuid.uuid4())})
    editor.js(LOOK_AT_PANEL)
    panel = panel_of(editor.page)
    expect(panel.locator(".mj-run-name")).to_have_text("moon of 0")
    assert step_of(panel) == 1

    editor.js(TOGGLE_TAB)
    runs = editor.page.get_by_role("navigation", name="Training runs")
    expect(runs).to_contain_text(re.compile(r"and \d+ older"))
    entries = runs.get_by_role("button")
    editor.shot("many_runs")
    long = entries.filter(has_text="much_too_long").first
    assert long.locator("strong").bounding_box()["height"] < 40
    runs.get_by_role("searchbox", name="Filter runs").fill("Moon of 100")
    expect(entries.filter(visible=True)).to_have_count(1)
    editor.js(TOGGLE_TAB)


@pytest.mark.parametrize("editor", ["canvas"], indirect=True)
def test_a_restarted_host_tells_of_the_run_that_it_killed_and_goes_on_with_it(editor: Editor) -> None:
    page, host, name = editor.page, editor.host, f"killed_{next(numbers)}"
    open_workflow(editor, long_training(name), name)
    editor.press_run()
    panel = panel_of(page)
    wait_for_step(panel, 2)
    press(panel, "Save now")
    saved = host.output / "loras"
    ends = time.monotonic() + 60
    while not list(saved.glob(f"{name}-step*.safetensors")):
        assert time.monotonic() < ends
        page.wait_for_timeout(100)
    wait_for_step(panel, step_of(panel) + 3)
    assert not host.complaints()
    host.stop()
    expect(panel.locator(".mj-run-line")).to_contain_text("ComfyUI does not answer")
    expect(panel.get_by_role("button", name="Pause")).to_be_disabled()
    host.start()
    expect_state(panel, "stopped")
    expect(panel.locator(".mj-run-line")).to_contain_text("Its process ended")
    reached = step_of(panel)
    # the editor's own complaints about a host that does not answer
    assert not [problem for problem in editor.problems if problem.startswith("uncaught")]
    editor.problems.clear()

    editor.press_run()
    expect_state(panel, "training")
    wait_for_step(panel, reached + 1)
    assert_nothing_is_missing(page, run_named(host, name)["id"])
    host.interrupt()
    expect_state(panel, "stopped")
    wait_until_idle(host)
