"""The extension only shows more: where its JavaScript is absent, every workflow is queued just the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from browser_editor import Editor, open_editor, read

import dev

if TYPE_CHECKING:
    from host_server import Host
    from playwright.sync_api import Browser

FOLDER = dev.ROOT / "workflows"


@pytest.fixture(scope="module")
def editor(browser: Browser, host: Host) -> Iterator[Editor]:
    """The editor of a host that answers the extension's files with nothing, as a blocked or broken one would."""
    with open_editor(browser, host, "canvas", block=f"**/extensions/{dev.ROOT.name}/**") as opened:
        yield opened


def test_the_extension_is_absent_and_the_nodes_are_there(editor: Editor) -> None:
    names = editor.js("() => window.app.extensions.map(extension => extension.name)")
    assert names and "mjesec" not in names
    editor.new_graph()
    editor.open_api({"1": {"class_type": "MjesecFigure", "inputs": {}}})
    assert "Explore cells" not in editor.js("() => window.app.graph.nodes[0].widgets.map(widget => widget.name)")


@pytest.mark.parametrize("name", ["quickstart", "thesis_train", "fig10_denoising", "beyond_overfitting"])
def test_a_workflow_is_queued_as_with_the_extension(editor: Editor, name: str) -> None:
    editor.open_template(name)
    assert editor.prompt() == read(FOLDER / "api" / f"{name}.json")
