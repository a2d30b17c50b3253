"""One Chromium and one ComfyUI for all browser tests; without a Chromium they are skipped, in CI they fail."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from host_server import Host

if TYPE_CHECKING:
    from browser_editor import Editor
    from playwright.sync_api import Browser


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    from browser_editor import chromium_path, launch, sync_playwright

    chromium = chromium_path()
    if chromium is None:
        reason = "there is no Chromium; install it (Debian: apt install chromium) or name it in MJESEC_CHROMIUM"
        if os.environ.get("MJESEC_BROWSER_REQUIRED"):
            pytest.fail(f"The browser tests are required here, but {reason}.")
        pytest.skip(f"no browser tests: {reason}")
    with sync_playwright() as playwright:
        opened = launch(playwright, chromium)
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def host(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A ComfyUI with the plugin and the demo's extension, on the CPU, with the frontend's own files in place."""
    from browser_editor import place_models, prepare_user

    with Host(tmp_path_factory.mktemp("browser"), "--cpu") as shared:
        prepare_user(shared)
        place_models(shared)
        yield shared
    assert not shared.complaints(), f"ComfyUI complains in {shared.log}: {shared.complaints()}"


@pytest.fixture(scope="module", params=["canvas", "vue"])
def editor(request: pytest.FixtureRequest, browser: Browser, host: Host) -> Iterator[Editor]:
    """The editor in each of its two node renderers, open for all tests of a module."""
    from browser_editor import open_editor

    with open_editor(browser, host, request.param) as opened:
        yield opened


@pytest.fixture(autouse=True)
def no_problems(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test that leaves an error in the console of the editor that it used, or reaches another server."""
    yield
    if "editor" not in request.fixturenames:
        return
    editor: Editor = request.getfixturevalue("editor")
    problems, editor.problems = editor.problems, []
    assert not problems, f"the page complains: {problems}"
    outside = {url for url in editor.hosts_reached if not url.startswith((editor.host.url, "data:", "blob:"))}
    assert not outside, f"requests left the machine: {sorted(outside)[:5]}"
