"""The help pages: one for every node, naming every input and output, in English and Croatian."""

from __future__ import annotations

import io
import re
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
