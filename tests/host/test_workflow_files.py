"""The shipped workflow files: the editor's form and its API twin are one graph, tidy, and complete."""

from __future__ import annotations

import itertools
import json
import runpy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from host_server import Host

import dev

FOLDER = dev.ROOT / "workflows"
FILES = sorted(FOLDER.glob("*.json"))
NAMES = [path.stem for path in FILES]
NOTES = ("MarkdownNote", "Note")
WIDGET_TYPES = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
CONTROLS = ("fixed", "increment", "decrement", "randomize")
ENDS = ("MjesecFigure", "SaveImage")
TITLE_BAR = 30  # px that a node's title takes above its position
THESIS = (
    "fig07_short_prompt", "fig08a_long_prompt", "fig08b_sampling_steps", "fig09_cfg_scale", "fig10_denoising",
    "fig11_lora_weight", "fig12_upscale", "fig13_inpainting", "thesis_all", "beyond_training_steps",
    "beyond_schedulers", "beyond_overfitting",
)  # fmt: skip
SDXL_BASE = {
    "name": "sd_xl_base_1.0.safetensors",
    "url": "https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0/resolve/main/sd_xl_base_1.0.safetensors",
    "directory": "checkpoints",
}

Json = dict[str, Any]


@pytest.fixture(scope="module")
def nodes_info(host: Host) -> Json:
    return host.get("/object_info")


@pytest.fixture(params=FILES, ids=NAMES)
def graph(request: pytest.FixtureRequest) -> Json:
    return read(request.param)


def read(path: Path) -> Json:
    return json.loads(path.read_text(encoding="utf-8"))


def inputs_of(info: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """(name, type, options) in the order in which the frontend makes sockets and widgets."""
    for section in ("required", "optional"):
        for name in info["input_order"].get(section, []):
            kind, *options = info["input"][section][name]
            yield name, "COMBO" if isinstance(kind, list) else kind, options[0] if options else {}


def is_widget(kind: str, options: Mapping[str, Any]) -> bool:
    return kind in WIDGET_TYPES and not options.get("forceInput")


def has_control(name: str, kind: str, options: Mapping[str, Any]) -> bool:
    """Whether the frontend puts "control after generate" below the widget; it does so for every seed."""
    return kind == "INT" and bool(options.get("control_after_generate", name in ("seed", "noise_seed")))


def widget_values(node: Mapping[str, Any], info: Mapping[str, Any]) -> Json:
    values = iter(node["widgets_values"])
    found = {}
    for name, kind, options in inputs_of(info):
        if is_widget(kind, options):
            found[name] = next(values)
            if has_control(name, kind, options):
                assert next(values) in CONTROLS
    assert not list(values), f"node {node['id']} ({node['type']}) has more values than widgets"
    return found


def as_api(graph: Mapping[str, Any], nodes_info: Mapping[str, Any]) -> Json:
    """What the frontend's "Export (API)" writes for a graph of plain nodes."""
    origins = {link[0]: [str(link[1]), link[2]] for link in graph["links"]}
    api = {}
    for node in graph["nodes"]:
        if node["type"] in NOTES:
            continue
        info = nodes_info[node["type"]]
        wired = {slot["name"]: origins[slot["link"]] for slot in node["inputs"] if slot["link"] is not None}
        api[str(node["id"])] = {
            "class_type": node["type"],
            "_meta": {"title": node.get("title") or info["display_name"]},
            "inputs": {**widget_values(node, info), **wired},
        }
    return api


def needed_height(node: Mapping[str, Any], info: Mapping[str, Any]) -> int:
    """px below the title for sockets and widgets; the frontend enlarges a node that is smaller."""
    inputs = list(inputs_of(info))
    widgets = [(name, kind, options) for name, kind, options in inputs if is_widget(kind, options)]
    sockets = max(len(inputs) - len(widgets), len(info["output"]))
    rows = sum(1 + has_control(*widget) + 2 * bool(widget[2].get("multiline")) for widget in widgets)
    return 20 * sockets + 24 * rows


def box(node: Mapping[str, Any]) -> tuple[float, float, float, float]:
    """left, top, right, bottom in px, with the title."""
    (x, y), (width, height) = node["pos"], node["size"]
    return x, y - TITLE_BAR, x + width, y + height


def test_every_graph_has_both_forms_and_a_thumbnail() -> None:
    assert {"quickstart", "thesis_train", *THESIS} <= set(NAMES)
    assert sorted(path.stem for path in (FOLDER / "api").glob("*.json")) == NAMES
    assert sorted(path.stem for path in FOLDER.glob("*.jpg")) == NAMES


@pytest.mark.parametrize("name", [name for name in THESIS if name.startswith("fig")])
def test_the_whole_thesis_has_a_row_with_the_nodes_of_each_workflow(name: str) -> None:
    row, own = read(FOLDER / "api" / "thesis_all.json"), read(FOLDER / "api" / f"{name}.json")
    ends = [key for key, node in own.items() if node["class_type"] in ENDS]
    assert ends
    for end in ends:
        prefix = own[end]["inputs"]["filename_prefix"]
        (twin,) = [key for key, node in row.items() if node["inputs"].get("filename_prefix") == prefix]
        assert ancestry(row, twin) == ancestry(own, end), prefix


def ancestry(api: Json, key: str) -> Any:
    """A node with all that is upstream of it, in place of the numbers of the nodes."""
    node = api[key]
    if is_cell_of_weight_06(api, key):
        return "the cell of LoRA weight 0.6"
    inputs = {
        name: (ancestry(api, value[0]), value[1]) if isinstance(value, list) else value
        for name, value in node["inputs"].items()
    }
    return node["class_type"], inputs


def is_cell_of_weight_06(api: Json, key: str) -> bool:
    """The thesis's graph has sampled it for Slika 11 and picks it; fig12_upscale samples it itself, in a first pass."""
    kind, inputs = api[key]["class_type"], api[key]["inputs"]
    if kind == "MjesecPickCell":
        return inputs["cell"] == "LoRA weight: 0.6"
    sampler = api[inputs["samples"][0]] if kind == "VAEDecode" else None
    return sampler is not None and sampler["inputs"].get("denoise") == 1.0


def test_no_two_thumbnails_show_the_same() -> None:
    pictures = [path.read_bytes() for path in sorted(FOLDER.glob("*.jpg"))]
    assert len(set(pictures)) == len(pictures)


def test_the_host_offers_them_as_templates(host: Host) -> None:
    assert sorted(host.get("/api/workflow_templates")[dev.ROOT.name]) == NAMES
    for path in FILES:
        assert host.request(f"/api/workflow_templates/{dev.ROOT.name}/{path.name}") == path.read_bytes()


def test_the_editors_form_is_the_api_form(graph: Json, nodes_info: Json, request: pytest.FixtureRequest) -> None:
    name = request.node.callspec.id
    assert as_api(graph, nodes_info) == read(FOLDER / "api" / f"{name}.json")


def test_they_are_as_the_refreshing_program_leaves_them(graph: Json, nodes_info: Json) -> None:
    program = runpy.run_path(str(FOLDER / "refresh.py"))
    assert program["refreshed"](graph, nodes_info) == graph


def test_a_node_that_has_changed_is_brought_up_to_date(nodes_info: Json) -> None:
    program = runpy.run_path(str(FOLDER / "refresh.py"))
    shipped = read(FOLDER / "fig07_short_prompt.json")
    old = json.loads(json.dumps(shipped))
    figure = next(node for node in old["nodes"] if node["type"] == "MjesecFigure")
    # an input that came later, one that is gone, and a socket in another place
    (at,) = [at for at, slot in enumerate(figure["inputs"]) if slot["name"] == "theme"]
    del figure["inputs"][at], figure["widgets_values"][at - 1]
    figure["inputs"].append({"name": "gone", "type": "INT", "widget": {"name": "gone"}, "link": None})
    figure["widgets_values"].append(7)
    figure["inputs"].append(figure["inputs"].pop(0))
    figure["size"][1] = 10
    assert program["refreshed"](old, nodes_info)["nodes"][3]["widgets_values"] == figure_values(shipped)


def figure_values(graph: Json) -> list[Any]:
    return next(node for node in graph["nodes"] if node["type"] == "MjesecFigure")["widgets_values"]


def test_the_frontend_can_read_it(graph: Json) -> None:
    assert graph["version"] == 0.4
    ids, links = [node["id"] for node in graph["nodes"]], [link[0] for link in graph["links"]]
    assert len(set(ids)) == len(ids) and graph["last_node_id"] == max(ids)
    assert len(set(links)) == len(links) and graph["last_link_id"] == max(links)
    assert sorted(node["order"] for node in graph["nodes"]) == list(range(len(ids)))
    for node in graph["nodes"]:
        assert node["mode"] == 0, f"node {node['id']} is muted or bypassed"


def test_every_node_is_known_with_its_sockets_in_order(graph: Json, nodes_info: Json) -> None:
    for node in graph["nodes"]:
        if node["type"] in NOTES:
            continue
        info = nodes_info[node["type"]]
        inputs = list(inputs_of(info))
        # the frontend makes the plain sockets first, then one for each widget
        ordered = sorted(inputs, key=lambda entry: is_widget(entry[1], entry[2]))
        assert [(s["name"], s["type"]) for s in node["inputs"]] == [(name, kind) for name, kind, _ in ordered]
        assert [(s["name"], s["type"]) for s in node["outputs"]] == list(
            zip(info["output_name"], info["output"], strict=True)
        )


def test_every_link_is_told_alike_at_both_ends(graph: Json) -> None:
    nodes = {node["id"]: node for node in graph["nodes"]}
    for link_id, origin, out_slot, target, in_slot, kind in graph["links"]:
        out, into = nodes[origin]["outputs"][out_slot], nodes[target]["inputs"][in_slot]
        assert link_id in out["links"] and into["link"] == link_id
        assert out["type"] == kind and into["type"] in (kind, "*") or kind == "*"
    known = {link[0] for link in graph["links"]}
    named = [slot["link"] for node in graph["nodes"] for slot in node["inputs"] if slot["link"] is not None]
    listed = [link for node in graph["nodes"] for slot in node["outputs"] for link in slot["links"] or []]
    assert sorted(named) == sorted(listed) == sorted(known)


def test_it_holds_nodes_of_the_core_and_ours_only(graph: Json, nodes_info: Json) -> None:
    for node in graph["nodes"]:
        if node["type"] in NOTES:
            continue
        ours = node["type"].startswith("Mjesec")
        module = nodes_info[node["type"]]["python_module"]
        assert module == f"custom_nodes.{dev.ROOT.name}" if ours else module.split(".")[0] in ("nodes", "comfy_extras")
        assert node["properties"]["cnr_id"] == ("mjesec" if ours else "comfy-core")
        assert node["properties"]["Node name for S&R"] == node["type"]


def test_a_checkpoint_that_is_not_embedded_is_offered_for_download(graph: Json) -> None:
    for node in graph["nodes"]:
        if node["type"] != "CheckpointLoaderSimple":
            continue
        (name,) = node["widgets_values"]
        if name == dev.TINY_SDXL.name:
            assert "models" not in node["properties"]
        else:
            assert node["properties"]["models"] == [SDXL_BASE] and name == SDXL_BASE["name"]


def test_nothing_overlaps_on_the_canvas(graph: Json, nodes_info: Json) -> None:
    for one, other in itertools.combinations(graph["nodes"], 2):
        a, b = box(one), box(other)
        apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
        assert apart, f"node {one['id']} ({one['type']}) overlaps node {other['id']} ({other['type']})"
    for node in graph["nodes"]:
        if node["type"] not in NOTES:
            assert node["size"][1] >= needed_height(node, nodes_info[node["type"]]), node["type"]


def test_wires_run_from_left_to_right(graph: Json) -> None:
    nodes = {node["id"]: node for node in graph["nodes"]}
    for _, origin, _, target, *_ in graph["links"]:
        assert nodes[origin]["pos"][0] <= nodes[target]["pos"][0]


def test_every_node_stands_in_exactly_one_group(graph: Json) -> None:
    for node in graph["nodes"]:
        left, top, right, bottom = box(node)
        holders = [
            group["title"]
            for group in graph["groups"]
            for x, y, width, height in [group["bounding"]]
            if x <= left and y <= top and right <= x + width and bottom <= y + height
        ]
        assert len(holders) == (0 if node["type"] in NOTES else 1), f"node {node['id']}: {holders}"


def test_one_note_explains_it_in_english_and_then_in_croatian(graph: Json) -> None:
    (note,) = [node for node in graph["nodes"] if node["type"] in NOTES]
    english, croatian = note["widgets_values"][0].removeprefix("# ").split("\n# ")
    for text, words in ((english, ("look at", "change")), (croatian, ("pogledajte", "mijenjajte"))):
        assert all(word in text.lower() for word in words)
    assert not set("čćđšž") & set(english.replace("Strakoš", "")) and set("čćđšž") & set(croatian)
