"""The help pages: one for every node, naming every input and output, in English and Croatian."""

from __future__ import annotations

import re
from typing import Any

import pytest
from host_server import Host

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
