"""The help pages: one for every node, naming every input and output, in English and Croatian."""

from __future__ import annotations

import ast
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from host_server import Host
from PIL import Image

import dev

PAGES = {path.stem: path for path in sorted((dev.ROOT / "web" / "docs").glob("*.md"))}


@pytest.fixture(scope="module")
def our_nodes(host: Host) -> dict[str, Any]:
    return {name: info for name, info in host.get("/object_info").items() if name.startswith("Mjesec")}


def test_every_node_has_a_page_and_every_page_a_node(our_nodes: dict[str, Any]) -> None:
    assert sorted(PAGES) == sorted(our_nodes)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_served_where_the_editor_asks_for_it(name: str, host: Host) -> None:
    assert host.request(f"/extensions/{dev.ROOT.name}/docs/{name}.md") == PAGES[name].read_bytes()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_a_row_for_every_input_and_no_other_and_names_every_output(
    name: str, our_nodes: dict[str, Any]
) -> None:
    info, text = our_nodes[name], PAGES[name].read_text(encoding="utf-8")
    order = info["input_order"]
    table = text.split("## Inputs")[1].split("\n\n")[1]
    rows = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert sorted(rows) == sorted([*order.get("required", []), *order.get("optional", [])])
    outputs = text.split("## Outputs")[1].split("\n## ")[0]
    assert all(f"`{output}`" in outputs for output in info["output_name"])


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_its_parts_in_order_and_a_croatian_summary(name: str, our_nodes: dict[str, Any]) -> None:
    text = PAGES[name].read_text(encoding="utf-8")
    assert re.findall(r"^#+ .+$", text, re.MULTILINE) == [
        f"# {our_nodes[name]['display_name']}",
        "## Inputs",
        "## Outputs",
        "## Errors and cures",
        "## Hrvatski",
    ]
    assert set("čćđšž") & set(text.split("## Hrvatski")[1])


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_a_picture_that_is_small_and_served_where_the_editor_looks(name: str, host: Host) -> None:
    # the editor takes a path for one below the pages' folder, and leaves one from the root as it is
    (path,) = re.findall(r"^!\[[^\]]+\]\(([^)]+)\)$", PAGES[name].read_text(encoding="utf-8"), re.MULTILINE)
    assert path == f"img/{name}.webp"
    data = host.request(f"/extensions/{dev.ROOT.name}/docs/{path}")
    assert len(data) <= 40_000
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.format == "WEBP" and 200 <= picture.width <= 640


def test_there_is_no_picture_without_a_page() -> None:
    assert sorted(path.stem for path in (dev.ROOT / "web" / "docs" / "img").iterdir()) == sorted(PAGES)


@pytest.fixture(scope="module")
def sentences() -> set[str]:
    """All texts in our sources, with … where a value comes in."""
    python = {path for folder in ("nodes", "trainer", "figures") for path in (dev.ROOT / folder).rglob("*.py")}
    modules = [path for path in (dev.ROOT / "web").rglob("*.mjs") if "vendor" not in path.parts]
    return {text for path in python for text in texts_of(path)} | {path.read_text("utf-8") for path in modules}


def texts_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)


@pytest.mark.parametrize("name", PAGES)
def test_every_message_that_a_page_quotes_is_one_that_we_say(name: str, sentences: set[str]) -> None:
    errors = PAGES[name].read_text(encoding="utf-8").split("## Errors and cures")[1].split("\n## ")[0]
    for quoted in re.findall(r"(?<![*\w])\*([^*\n]+)\*(?!\*)", errors):
        said = re.compile(".*".join(re.escape(part.strip()) for part in quoted.split("…")))
        assert any(said.search(text) for text in sentences), f"nothing says '{quoted}'"
