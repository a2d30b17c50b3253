"""The graph editor in a real Chromium: what a user does with the mouse, and what the page says of itself."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from host_server import Host  # registered by tests/conftest.py

import dev

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page, Playwright

try:
    from playwright.sync_api import TimeoutError, expect, sync_playwright
except ModuleNotFoundError:
    if os.environ.get("MJESEC_BROWSER_REQUIRED"):
        raise
    pytest.skip("no browser tests: Playwright is missing; run `python dev.py test`", allow_module_level=True)

__all__ = ["RENDERERS", "Editor", "chromium_path", "expect", "launch", "open_editor", "read", "sync_playwright"]

RENDERERS = {"canvas": False, "vue": True}
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
SETTINGS = {
    "Comfy.TutorialCompleted": True,  # else the template browser opens by itself
    "Comfy.Minimap.Visible": False,
}
# what the frontend says of itself, whatever plugins there are (z_image_turbo: its default graph; en.md: a help page in
# the user's language, for which it asks before that for all languages)
HOSTS_OWN_ERRORS = ("ComfyApp graph accessed before initialization", "/user.css", "z_image_turbo", "/en.md")
READY = "() => window.app?.extensionManager && window.app.graph && !document.querySelector('#splash-loader')"

EMPTY_PLACE = (720, 880)  # of the canvas, in pixels of the page
# brings a node into view, and returns where on the page its button is
BUTTON_PLACE = """([kind, label]) => {
    const node = window.app.canvas.graph.nodes.find(node => node.comfyClass === kind)
    const { ds, canvas } = window.app.canvas
    window.app.canvas.centerOnNode(node)
    window.app.canvas.setDirty(true, true)
    const shown = [...document.querySelectorAll(`[data-node-id="${node.id}"] button`)]
        .find(button => button.textContent.includes(label))?.getBoundingClientRect()
    if (shown) return [shown.x + shown.width / 2, shown.y + shown.height / 2]
    const widget = node.widgets.find(widget => widget.name === label)
    const area = canvas.getBoundingClientRect()
    const x = node.pos[0] + node.size[0] / 2, y = node.pos[1] + widget.y + 10
    return [area.x + (x + ds.offset[0]) * ds.scale, area.y + (y + ds.offset[1]) * ds.scale]
}"""

# a graph in API format becomes a workflow as the editor's own: only those have an id
WITH_ID = """name => {
    const graph = { ...window.app.graph.serialize(), id: crypto.randomUUID() }
    return window.app.loadGraphData(graph, true, true, name)
}"""

# drops a file onto the middle of the canvas, as the browser does for one that comes from a folder
DROP = """([name, type, data]) => {
    const transfer = new DataTransfer()
    transfer.items.add(new File([Uint8Array.from(atob(data), letter => letter.charCodeAt(0))], name, { type }))
    const canvas = window.app.canvas.canvas, at = canvas.getBoundingClientRect()
    const place = { clientX: at.x + at.width / 2, clientY: at.y + at.height / 2, dataTransfer: transfer }
    for (const kind of ['dragenter', 'dragover', 'drop']) {
        canvas.dispatchEvent(new DragEvent(kind, { ...place, bubbles: true, cancelable: true }))
    }
}"""
# where on the page a socket of a node is, by the node's id, 'inputs' or 'outputs', and the socket's name
SOCKET_PLACE = """([id, side, name]) => {
    const node = window.app.canvas.graph.nodes.find(node => node.id == id)
    const slot = node[side].findIndex(each => each.name === name)
    const dot = document.querySelector(`[data-slot-key="${id}-${side === 'inputs' ? 'in' : 'out'}-${slot}"]`)
    if (dot) {
        const area = dot.getBoundingClientRect()
        return [area.x + area.width / 2, area.y + area.height / 2]
    }
    const [x, y] = side === 'inputs' ? node.getInputPos(slot) : node.getOutputPos(slot)
    const { ds, canvas } = window.app.canvas, area = canvas.getBoundingClientRect()
    return [area.x + (x + ds.offset[0]) * ds.scale, area.y + (y + ds.offset[1]) * ds.scale]
}"""

# what is open, for messages of tests that fail
SHOWN = """() => ({
    address: location.href,
    tab: document.title,
    nodes: window.app.graph.nodes.length,
    inSubgraph: window.app.canvas.graph !== window.app.graph,
    focus: document.activeElement?.outerHTML.slice(0, 200),
    dialogs: [...document.querySelectorAll('dialog, [role=dialog]')].map(each => each.textContent.slice(0, 200)),
})"""


def chromium_path() -> str | None:
    """MJESEC_CHROMIUM, else Debian's chromium, else a browser that is built from the same source."""
    named = os.environ.get("MJESEC_CHROMIUM")
    names = [named] if named else ["chromium", "chromium-browser", "google-chrome"]
    return next((found for name in names if (found := shutil.which(name))), None)


def launch(playwright: Playwright, chromium: str) -> Browser:
    return playwright.chromium.launch(executable_path=chromium, headless=True, args=list(FLAGS))


def prepare_user(host: Host) -> None:
    """The files that the frontend asks for at every start, each a 404 in the console where it is missing."""
    user = host.base / "user" / "default"
    for folder in ("workflows", "subgraphs"):
        (user / folder).mkdir(parents=True, exist_ok=True)
    (user / "user.css").touch()
    (user / "comfy.templates.json").write_text("{}", encoding="utf-8")


def place_models(host: Host) -> None:
    """Files of the names that the shipped workflows load, so that the frontend finds none of them missing.

    They hold the tiny SDXL's bytes; nothing is run with them here.
    """
    loras = host.output / "loras"
    for path in (dev.ROOT / "workflows").glob("*.json"):
        for node in read(path)["nodes"]:
            for model in node["properties"].get("models", []):
                _place(host.base / "models" / model["directory"] / model["name"])
            if node["type"] != "CheckpointLoaderSimple":
                names = [value for value in node.get("widgets_values", []) if str(value).endswith(".safetensors")]
                for name in names:
                    _place(loras / name)


def _place(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.symlink_to(dev.TINY_SDXL)


class Editor:
    """One tab with the editor open. `problems` collects every error of the console and of the page."""

    def __init__(self, page: Page, host: Host, renderer: str) -> None:
        self.page = page
        self.host = host
        self.renderer = renderer
        self.problems: list[str] = []
        self.hosts_reached: set[str] = set()
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.problems.append(f"uncaught: {error}"))
        page.on("request", lambda request: self.hosts_reached.add(request.url))

    def _heard(self, message: ConsoleMessage) -> None:
        told = f"{message.text} ({message.location.get('url', '')})"
        if message.type == "error" and not any(words in told for words in HOSTS_OWN_ERRORS):
            self.problems.append(told)

    def load(self) -> None:
        self.page.goto(self.host.url)
        self.page.wait_for_function(READY, timeout=60_000)
        # the empty graph of the first start comes after the extensions' setup
        self.page.wait_for_function("() => window.app.extensionManager.workflow.activeWorkflow != null", timeout=60_000)

    def js(self, script: str, argument: object = None) -> Any:
        return self.page.evaluate(script, argument)

    def browse_templates(self, name: str) -> list[str]:
        """Opens a shipped workflow as a user does, by its card; returns the names on all our cards."""
        self.js("() => window.app.extensionManager.command.execute('Comfy.BrowseTemplates')")
        dialog = self.page.get_by_role("dialog")
        dialog.get_by_text(dev.ROOT.name, exact=True).first.click()
        wanted = dialog.get_by_test_id(f"template-workflow-{name}")
        wanted.wait_for()
        cards = dialog.locator("[data-testid^=template-workflow-]").evaluate_all(
            "cards => cards.map(card => card.dataset.testid.replace('template-workflow-', ''))"
        )
        for _ in range(10):  # hundreds of pictures that come in move the cards away from under the pointer
            with contextlib.suppress(TimeoutError):
                wanted.click(timeout=3000)
            with contextlib.suppress(TimeoutError):
                dialog.wait_for(state="hidden", timeout=3000)
                break
        self.page.wait_for_function("name => document.title.includes(name)", arg=name)
        self.settle()
        return list(cards)

    def open_template(self, name: str) -> None:
        """What the template browser does once a card is clicked, without drawing its hundreds of cards first."""
        url = f"/api/workflow_templates/{dev.ROOT.name}/{name}.json"
        self.js(
            "async ([url, name]) => window.app.loadGraphData("
            "await (await fetch(url)).json(), true, true, name, { openSource: 'template' })",
            [url, name],
        )
        self.settle()

    def open_graph(self, graph: dict[str, Any]) -> None:
        """Loads a workflow in the editor's form."""
        self.js("graph => window.app.loadGraphData(graph)", graph)
        self.settle()

    def new_graph(self) -> None:
        """An empty workflow in a tab of its own.

        All graphs in API form have one id, by which the editor's router finds tabs: while the address still follows
        the last move between graphs, it may bring back an older tab.
        """
        for _ in range(5):
            self.command("Comfy.NewBlankWorkflow")
            with contextlib.suppress(TimeoutError):
                self.page.wait_for_function("() => window.app.graph.nodes.length === 0", timeout=8000)
                return
        raise AssertionError(f"no empty workflow came, but {self.js(SHOWN)}")

    def command(self, name: str) -> None:
        """One of the editor's own commands, as its menus and keys give them."""
        self.js("name => window.app.extensionManager.command.execute(name)", name)
        self.settle()

    def add_by_search(self, words: str, title: str, x: float, y: float) -> None:
        """Double-clicks the empty canvas, types, chooses the node of that title, and puts it where the pointer is."""
        box = self.page.get_by_role("combobox", name="Add a node")
        for _ in range(10):  # on a busy machine the two clicks may come too far apart
            self.page.mouse.dblclick(x, y)
            with contextlib.suppress(TimeoutError):
                box.wait_for(timeout=1000)
                break
        box.fill(words)
        choice = self.page.get_by_test_id("result-item").filter(has=self.page.get_by_text(title, exact=True))
        before = self.js("() => window.app.graph.nodes.length")
        choice.first.click()
        choice.first.wait_for(state="hidden")
        # until it is clicked it follows the pointer
        self.page.mouse.move(x, y)
        self.page.mouse.click(x, y)
        self.page.wait_for_function("before => window.app.graph.nodes.length === before + 1", arg=before)
        self.settle()

    def wire(self, origin: object, output: str, target: object, into: str) -> None:
        """Draws a link with the mouse, from node `origin` to node `target`."""
        start, end = (self.js(SOCKET_PLACE, place) for place in ([origin, "outputs", output], [target, "inputs", into]))
        self.page.mouse.move(*start)
        self.page.mouse.down()
        self.page.mouse.move(*end, steps=5)
        self.page.mouse.up()
        self.settle()

    def drop(self, path: Path) -> None:
        """Drops a PNG from the disk on the canvas, and waits for the workflow of its name."""
        self.js(DROP, [path.name, "image/png", base64.b64encode(path.read_bytes()).decode()])
        self.page.wait_for_function("name => document.title.includes(name)", arg=path.stem)
        # the spinner that covers the page meanwhile
        self.page.wait_for_function("() => !document.querySelector('.p-blockui-mask')")
        self.settle()

    def settle(self) -> None:
        """Waits until the page has been drawn twice: sizes are computed while drawing."""
        self.js("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def open_api(self, graph: Mapping[str, Any], name: str | None = None) -> None:
        """Loads a graph in API format, as the host does for an image that carries nothing else, in a tab of its own."""
        name = name or f"test {uuid.uuid4().hex[:8]}"
        self.js("([graph, name]) => window.app.loadApiJson(graph, name)", [dict(graph), name])
        # its tab comes after the call's end: who saved before would save the one that was open
        self.page.wait_for_function("name => document.title.includes(name)", arg=name)
        self.settle()

    def open_workflow(self, graph: Mapping[str, Any], name: str) -> None:
        """A graph in API format as a workflow of the editor's own, in a tab of its own."""
        self.open_api(graph, name)
        self.js(WITH_ID, name)
        self.settle()

    def show_workflow(self, name: str) -> None:
        """Clicks the tab of such a workflow; the first one of that name holds the graph as it came, without an id."""
        self.page.get_by_role("button", name=re.compile(re.escape(name))).last.click()
        # while a graph runs, the page's title is the run's
        shown = "name => window.app.extensionManager.workflow.activeWorkflow.filename.includes(name)"
        self.page.wait_for_function(shown, arg=name)
        self.page.wait_for_function("() => window.app.rootGraph.nodes.length > 0")
        self.settle()

    def press_run(self) -> None:
        # while the pointer rests on a workflow's tab, a preview of that graph lies over the button
        self.page.mouse.move(*EMPTY_PLACE)
        self.page.locator(".workflow-popover-fade").wait_for(state="hidden")
        self.page.get_by_test_id("queue-button").click()

    def queue(self, timeout_s: float = 120) -> list[Path]:
        """Presses Run and waits for the prompt to end well; returns the files in the output folder that it reports."""
        before = set(self.host.get("/history"))
        self.press_run()
        ends = time.monotonic() + timeout_s
        # the newest few: all of them are megabytes after some tests
        while not (new := self.host.get("/history", max_items="4").keys() - before):
            assert time.monotonic() < ends, f"the prompt did not end in {timeout_s:.0f} s"
            self.page.wait_for_timeout(50)
        entries = [self.host.get(f"/history/{prompt}")[prompt] for prompt in new]
        for entry in entries:
            assert not dev.failure_of(entry), dev.failure_of(entry)
        # the extension asks whose results these are, and so does this: once it is answered, they are on their nodes
        for _ in range(2):
            self.js("async prompt => { await window.app.api.fetchApi(`/jobs/${prompt}`) }", next(iter(new)))
        return [path for entry in entries for path in self.host.outputs(entry)]

    def press(self, kind: str, label: str) -> None:
        """Presses a button of the first node of a kind, where the renderer shows it."""
        place = self.js(BUTTON_PLACE, [kind, label])
        self.settle()
        node = self.js("kind => window.app.canvas.graph.nodes.find(node => node.comfyClass === kind).id", kind)
        shown = self.page.locator(f'[data-node-id="{node}"]').get_by_role("button", name=label)
        if RENDERERS[self.renderer]:
            # a node that was just made comes some frames later, and grows: this waits for a button that stands still
            shown.click()
        else:
            place = self.js(BUTTON_PLACE, [kind, label])
            self.page.mouse.click(*place)

    def press_until(self, keys: str, condition: str) -> None:
        """Presses keys until the page shows what they bring.

        On a busy machine a node that grows while it is drawn is a step of its own to the editor's undo, and the
        editor's address may still follow the last move between graphs.
        """
        for _ in range(5):
            self.page.keyboard.press(keys)
            with contextlib.suppress(TimeoutError):
                self.page.wait_for_function(condition, timeout=8000)
                return
        raise AssertionError(f"{keys} did not bring {condition}: {self.js(SHOWN)}")

    @contextlib.contextmanager
    def window(self, width: int, height: int) -> Iterator[None]:
        """A window of another size, meanwhile."""
        before = self.page.viewport_size
        assert before is not None
        self.page.set_viewport_size({"width": width, "height": height})
        try:
            yield
        finally:
            self.page.set_viewport_size(before)
            self.settle()

    def prompt(self) -> dict[str, Any]:
        """The graph as it would be queued, in API format."""
        return dict(self.js("async () => (await window.app.graphToPrompt()).output"))

    def shot(self, name: str) -> None:
        """A picture of the page as NAME.png in the folder that MJESEC_SCREENSHOTS names; without it, none."""
        if folder := os.environ.get("MJESEC_SCREENSHOTS"):
            self.page.screenshot(path=str(Path(folder) / f"{name}.png"))


@contextlib.contextmanager
def open_editor(
    browser: Browser, host: Host, renderer: str, *, block: str | None = None, **settings: object
) -> Iterator[Editor]:
    """A tab with a fresh profile, in one of the two node `RENDERERS`; `settings` are the frontend's own.

    Addresses that fit the glob `block` are answered with an empty file.
    """
    wanted = {**SETTINGS, "Comfy.VueNodes.Enabled": RENDERERS[renderer], **settings}
    host.request("/settings", wanted)
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    if block is not None:
        context.route(block, lambda route: route.fulfill(status=200, content_type="text/javascript", body=""))
    try:
        editor = Editor(context.new_page(), host, renderer)
        editor.load()
        yield editor
    finally:
        context.close()


def read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))
