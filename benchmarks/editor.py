"""How quickly the editor answers while a long training is shown, and whether its memory stays flat.

    python dev.py bench editor [--minutes 10] [--points 20000] [--side 20] [--renderer canvas|vue]

A real ComfyUI and a headless Chromium. First a run of many points, read from a log that this program writes, is shown
on its node and in the bottom panel at once, while events of a run that goes on reach the page four times a second
with five steps each: they are dispatched in the page, as the host's client does with what the websocket brings, so
that no training competes for the processors. Then the figure viewer with side x side cells. A mouse and a keyboard
work meanwhile. For every click and key the browser's own Event Timing says how long it was until the next paint; those
that it does not report took less than 16 ms and count as 16.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from _hosts import main
from _pack import ROOT, load_by_path
from PIL import Image

import dev

for _name, _file in (("host_server", "host/server.py"), ("browser_editor", "browser/editor.py")):
    load_by_path(_name, ROOT / "tests" / _file)

import browser_editor  # noqa: E402 - importable only now
from host_server import Host  # noqa: E402

if TYPE_CHECKING:
    from browser_editor import Editor
    from playwright.sync_api import CDPSession, Locator

RUN = "be" * 16
SWEEP = "20260101-000000-000000000"
UNREPORTED_MS = 16.0
# the editor's own bar over a selected node keeps 0.1 MB of the page at every selection, of core nodes as well
OWN_GROWTH_OFF = {"Comfy.Canvas.SelectionToolbox": False}
WATCH = """() => {
    window.interactions = new Map()
    new PerformanceObserver(list => {
        for (const { interactionId, duration } of list.getEntries()) if (interactionId)
            window.interactions.set(interactionId, Math.max(duration, window.interactions.get(interactionId) ?? 0))
    }).observe({ type: 'event', durationThreshold: 16 })
}"""
TAKE = "() => { const all = [...window.interactions.values()]; window.interactions.clear(); return all }"
FEED = """async ([module, id]) => {
    const { store } = await import(module)
    let step = store.run(id).step
    const run = { ...store.run(id), state: 'training', message: '', wishes: ['pause', 'stop', 'save'], steps: 1e6 }
    const point = () => {
        const loss = 0.1 + Math.random() / 5
        const validation = ++step % 500 ? null : 0.2
        return { step, loss, smoothed: 0.2, lr: { unet: 1e-4, text: 5e-5 }, validation }
    }
    window.feeding = setInterval(() => {
        const points = Array.from({ length: 5 }, point)
        const detail = { ...run, step, points, samples: [] }
        window.app.api.dispatchEvent(new CustomEvent('mjesec.run', { detail }))
    }, 250)
}"""
SHOW_NODE = """id => {
    const node = window.app.graph.nodes[0]
    node.properties.mjesec_run = id
    window.app.canvas.ds.scale = 0.75
    window.app.canvas.ds.offset = [60, 50]
    node.pos = [60, 40]
    window.app.canvas.setDirty(true, true)
}"""
TOGGLE_TAB = "() => window.app.extensionManager.command.execute('Workspace.ToggleBottomPanelTab.mjesec-training')"


def write_run(host: Host, points: int) -> None:
    """The log of a run of that many steps."""
    path = host.output / "mjesec" / "runs" / RUN / "log.jsonl"
    path.parent.mkdir(parents=True)
    chance = random.Random(0)  # noqa: S311 - a curve to look at
    begin = {
        "event": "begin",
        "step": 0,
        "id": RUN,
        "name": "long",
        "steps": points,
        "steps_per_epoch": 100,
        "time": 1.0,
    }
    smoothed = 0.3
    with path.open("w", encoding="utf-8") as file:
        file.write(json.dumps(begin) + "\n")
        for step in range(1, points + 1):
            loss = 0.1 + 0.3 * chance.random() * math.exp(-step / points)
            smoothed = 0.98 * smoothed + 0.02 * loss
            told = {
                "loss": loss,
                "smoothed_loss": smoothed,
                "lr": {"unet": 1e-4, "text": 5e-5},
                "seconds_per_step": 0.05,
            }
            file.write(json.dumps({"event": "step", "step": step, **told}) + "\n")
            if step % 500 == 0:
                file.write(json.dumps({"event": "validation", "step": step, "loss": smoothed}) + "\n")


def write_sweep(host: Host, side: int) -> None:
    """A sweep of side x side cells of 256 pixels."""
    work, values, cells = host.output / "mjesec", list(range(side)), []
    axes = [
        {"parameter": name, "label": name, "values": values, "texts": [str(value) for value in values]}
        for name in ("cfg", "seed")
    ]
    for at in itertools.product(values, values):
        key = f"{at[0] * side + at[1]:064x}"
        path = work / "cells" / key[:2] / f"{key}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((256, 256), 20 + at[0]).convert("RGB").save(path)
        cells.append({"index": at, "values": {}, "key": key, "parameters": {"prompt": "moon"}})
    path = work / "sweeps" / f"{SWEEP}.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"axes": axes, "cells": cells}), encoding="utf-8")


class Page:
    """The editor's page, its memory, and what is done in it."""

    def __init__(self, editor: Editor) -> None:
        self.editor = editor
        self.cdp: CDPSession = editor.page.context.new_cdp_session(editor.page)
        self.cdp.send("Performance.enable")
        editor.js(WATCH)

    def heap_mb(self) -> float:
        """What JavaScript holds once the garbage is gone."""
        for _ in range(2):
            self.cdp.send("HeapProfiler.collectGarbage")
        metrics = self.cdp.send("Performance.getMetrics")["metrics"]
        return next(each["value"] for each in metrics if each["name"] == "JSHeapUsedSize") / 2**20

    def delays(self, actions: Iterator[Callable[[], None]], seconds: float, pause_s: float) -> list[float]:
        """The milliseconds of each click and key until the next paint, of actions for so long."""
        self.editor.js(TAKE)
        done, ends = 0, time.monotonic() + seconds
        while time.monotonic() < ends:
            next(actions)()
            done += 1
            self.editor.page.wait_for_timeout(1000 * pause_s)
        self.editor.page.wait_for_timeout(500)
        reported = [float(delay) for delay in self.editor.js(TAKE)]
        return sorted(reported + [UNREPORTED_MS] * max(0, done - len(reported)))


def in_turn(actions: Sequence[Callable[[], None]]) -> Iterator[Callable[[], None]]:
    return itertools.cycle(actions)


def training_actions(editor: Editor) -> Iterator[Callable[[], None]]:
    """What somebody does who watches a training; each is one click or one key."""
    page, tab, node = editor.page, editor.page.locator(".mj-training-tab"), editor.page.locator(".mj-on-node")
    chart = tab.locator(".u-over")

    def zoom() -> None:
        area = chart.bounding_box() or {"x": 0, "y": 0, "width": 9, "height": 9}
        page.mouse.move(area["x"] + area["width"] * 0.3, area["y"] + 20)
        page.mouse.down()
        page.mouse.move(area["x"] + area["width"] * 0.7, area["y"] + 30, steps=4)
        page.mouse.up()

    def legend(panel: Locator, name: str) -> Callable[[], None]:
        return panel.get_by_role("button", name=name, exact=True).click

    canvas = page.locator("#graph-canvas")
    return in_turn(
        [
            legend(tab, "loss"),
            zoom,
            legend(node, "held-out"),
            lambda: canvas.click(position={"x": 1250, "y": 350}),
            legend(tab, "loss"),
            lambda: page.keyboard.press("ArrowRight"),
            legend(node, "held-out"),
            chart.dblclick,
            tab.locator(".mj-runs-entry").first.click,
        ]
    )


def viewer_actions(editor: Editor) -> Iterator[Callable[[], None]]:
    keys = ["ArrowRight", "ArrowDown", "+", "ArrowRight", "ArrowDown", "-", "ArrowLeft", "ArrowUp"]
    cells = editor.page.get_by_role("gridcell")
    pressed: list[Callable[[], None]] = [lambda key=key: editor.page.keyboard.press(key) for key in keys]
    return in_turn([*pressed, cells.nth(3).click, cells.nth(25).click])


def row(name: str, delays: Sequence[float], heap: tuple[float, float]) -> str:
    at = {part: delays[min(len(delays) - 1, math.ceil(part * len(delays)) - 1)] for part in (0.5, 0.95)}
    told = [len(delays), f"{at[0.5]:.0f} ms", f"{at[0.95]:.0f} ms", f"{delays[-1]:.0f} ms"]
    return f"| {name} | {' | '.join(map(str, told))} | {heap[0]:.1f} MB | {heap[1]:.1f} MB |"


def measure_training(editor: Editor, page: Page, options: argparse.Namespace) -> str:
    editor.open_api({"1": {"class_type": "MjesecTrainLora", "inputs": {}}})
    # the editor fits a new graph into view first
    editor.page.wait_for_timeout(1500)
    editor.js(SHOW_NODE, RUN)
    editor.js(TOGGLE_TAB)
    editor.page.locator(".mj-training-tab canvas").wait_for()
    module = f"/extensions/{dev.ROOT.name}/training/live.mjs"
    editor.js(FEED, [module, RUN])
    editor.page.locator(".mj-on-node canvas").wait_for()
    actions = training_actions(editor)
    # what the editor itself only loads once somebody does something
    page.delays(actions, 20, 1)
    before = page.heap_mb()
    delays = page.delays(actions, 60 * options.minutes, 1.5)
    after = page.heap_mb()
    editor.shot("bench_training")
    editor.js("() => clearInterval(window.feeding)")
    editor.js(TOGGLE_TAB)
    return row(f"training of {options.points:,} points, live, {options.minutes:g} min", delays, (before, after))


def measure_viewer(editor: Editor, page: Page, options: argparse.Namespace) -> str:
    editor.open_api({"1": {"class_type": "MjesecSweep", "inputs": {}}})
    editor.js("name => { window.app.graph.nodes[0].properties.mjesec_sweep = name }", SWEEP)
    editor.press("MjesecSweep", "Explore cells")
    editor.page.get_by_role("gridcell").first.locator("img").wait_for()
    actions = viewer_actions(editor)
    page.delays(actions, 10, 0.3)
    before = page.heap_mb()
    minutes = min(1.0, options.minutes)
    delays = page.delays(actions, 60 * minutes, 0.3)
    after = page.heap_mb()
    return row(f"figure viewer, {options.side} × {options.side} cells, {minutes:g} min", delays, (before, after))


def measure(options: argparse.Namespace) -> int:
    chromium = browser_editor.chromium_path()
    if chromium is None:
        raise dev.Failure(
            "There is no Chromium; install it (Debian: apt install chromium) or name it in MJESEC_CHROMIUM."
        )
    with tempfile.TemporaryDirectory(prefix="mjesec-bench-") as folder, Host(Path(folder), "--cpu") as host:
        browser_editor.prepare_user(host)
        write_run(host, options.points)
        write_sweep(host, options.side)
        with browser_editor.sync_playwright() as playwright:
            browser = browser_editor.launch(playwright, chromium)
            with browser_editor.open_editor(browser, host, options.renderer, **OWN_GROWTH_OFF) as editor:
                page = Page(editor)
                rows = [part(editor, page, options) for part in (measure_training, measure_viewer)]
                known = editor.js(
                    f"async () => (await import('/extensions/{dev.ROOT.name}/training/live.mjs')).store.listening"
                )
                version = browser.version
            browser.close()
    head = "| page | clicks and keys | median | 95th percentile | longest | heap before | heap after |"
    told = f"Chromium {version}, headless, {options.renderer} renderer; views still listening at the end: {known}."
    print("\n".join([head, "|---|---|---|---|---|---|---|", *rows, "", told]), flush=True)
    return 0


def program() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10, help="how long the training is watched")
    parser.add_argument("--points", type=int, default=20_000, help="steps of the run")
    parser.add_argument("--side", type=int, default=20, help="cells of the figure's side")
    parser.add_argument("--renderer", choices=sorted(browser_editor.RENDERERS), default="canvas")
    return measure(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main(program))
