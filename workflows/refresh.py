"""Brings the shipped workflows up to date with the nodes of a running ComfyUI, and writes their API forms.

    python workflows/refresh.py [http://127.0.0.1:8188]

Run it after a node has got or lost an input, or after a workflow was edited and saved over its file here. New inputs
get their defaults, sockets and widgets the order in which the editor makes them, nodes the height that they need, notes
that of their text, and groups the frame that their nodes need. Widgets that are gone are dropped. The API form is
written from the result.
"""

from __future__ import annotations

import json
import math
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
NOTES = ("MarkdownNote", "Note")
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
CONTROLS = ("fixed", "increment", "decrement", "randomize")
# what the editor and our extension add to a node besides its widgets, in pixels: a panel, a picture, a report
PANELS = {"MjesecTrainLora": 770, "MjesecLossChart": 240, "MjesecSweep": 560}
TITLE_BAR, NODE_GAP, GROUP_SIDE, GROUP_TOP, BAND_GAP = 30, 80, 20, 80, 120

Json = dict[str, Any]


def refreshed(graph: Json, info: Mapping[str, Json]) -> Json:
    """The editor's form of a graph, brought up to date; raises KeyError for a node that the host does not know."""
    out = json.loads(json.dumps(graph))
    for node in out["nodes"]:
        if node["type"] in NOTES:
            node["size"][1] = _note_height(node["widgets_values"][0])
        else:
            _refresh_node(node, info[node["type"]])
    _number_slots(out)
    _lay_out(out)
    return out


def api_form(graph: Json, info: Mapping[str, Json]) -> Json:
    """What the editor's "Export (API)" writes for a refreshed graph."""
    origins = {link[0]: [str(link[1]), link[2]] for link in graph["links"]}
    found = {}
    for node in graph["nodes"]:
        if node["type"] in NOTES:
            continue
        values = _values_of(node)
        names = [slot["name"] for slot in node["inputs"] if slot["link"] is not None or slot["name"] in values]
        wired = {slot["name"]: origins[slot["link"]] for slot in node["inputs"] if slot["link"] is not None}
        found[str(node["id"])] = {
            "class_type": node["type"],
            "_meta": {"title": node.get("title") or info[node["type"]]["display_name"]},
            "inputs": {name: wired.get(name, values.get(name)) for name in names},
        }
    return found


def inputs_of(info: Json) -> Iterator[tuple[str, str, Json]]:
    """(name, type, options) of a node's inputs in the order of its definition."""
    for section in ("required", "optional"):
        for name in info["input_order"].get(section, []):
            kind, *options = info["input"][section][name]
            choices = {"options": kind} if isinstance(kind, list) else {}
            given = {"optional": section == "optional", **choices, **(options or [{}])[0]}
            yield name, "COMBO" if choices else kind, given


def is_widget(kind: str, options: Json) -> bool:
    return kind in WIDGETS and not options.get("forceInput")


def has_control(name: str, kind: str, options: Json) -> bool:
    """Whether the editor puts "control after generate" below the widget; it does so for every seed."""
    return kind == "INT" and bool(options.get("control_after_generate", name in ("seed", "noise_seed")))


def _refresh_node(node: Json, info: Json) -> None:
    values, links = _values_of(node), {slot["name"]: slot["link"] for slot in node["inputs"]}
    slots, widgets, given = [], [], []
    for name, kind, options in inputs_of(info):
        slot: Json = {"name": name, "type": kind}
        if not is_widget(kind, options):
            slots.append({**slot, **({"shape": 7} if options["optional"] else {}), "link": links.get(name)})
            continue
        widgets.append({**slot, "widget": {"name": name}, "link": links.get(name)})
        given.append(values.get(name, _default(options, kind)))
        if has_control(name, kind, options):
            given.append("fixed")
    node["inputs"], node["widgets_values"] = slots + widgets, given
    links_out = {slot["name"]: slot["links"] for slot in node["outputs"]}
    node["outputs"] = [
        {"name": name, "type": kind, "slot_index": number, "links": links_out.get(name)}
        for number, (name, kind) in enumerate(zip(info["output_name"], info["output"], strict=True))
    ]
    node["size"][1] = max(_needed_height(info), node["size"][1])


def _needed_height(info: Json) -> int:
    inputs = list(inputs_of(info))
    widgets = [entry for entry in inputs if is_widget(entry[1], entry[2])]
    rows = sum(1 + has_control(*entry) + 2 * bool(entry[2].get("multiline")) for entry in widgets)
    sockets = max(len(inputs) - len(widgets), len(info["output"]))
    return 20 * sockets + 24 * rows + 36 + PANELS.get(info["name"], 0)


def _note_height(text: str) -> int:
    """What a note of 460 pixels' width takes in the renderer that takes more, with some room to spare."""
    height = 60
    for line in filter(None, text.split("\n")):
        if line.startswith("# "):
            height += 62
        elif line.startswith("- ") or line[:1].isdigit():
            height += 17 * math.ceil(len(line) / 66) + 9
        else:
            height += 17 * math.ceil(len(line) / 74) + 4
    return height


def _values_of(node: Json) -> Json:
    """Widget values by name, as the node's own list of inputs has them in order."""
    values, found = list(node["widgets_values"]), {}
    for slot in node["inputs"]:
        if "widget" in slot and values:
            found[slot["name"]] = values.pop(0)
            if slot["type"] == "INT" and "seed" in slot["name"] and values and values[0] in CONTROLS:
                values.pop(0)
    return found


def _default(options: Json, kind: str) -> Any:
    plain = {"INT": 0, "FLOAT": 0.0, "STRING": "", "BOOLEAN": False, "COMBO": (options.get("options") or [""])[0]}
    return options.get("default", plain[kind])


def _number_slots(graph: Json) -> None:
    """Links name sockets by number: follow those that have moved."""
    nodes = {node["id"]: node for node in graph["nodes"]}
    into = {slot["link"]: at for node in graph["nodes"] for at, slot in enumerate(node["inputs"])}
    out_of = {
        link: at for node in graph["nodes"] for at, slot in enumerate(node["outputs"]) for link in slot["links"] or []
    }
    for link in graph["links"]:
        link[2], link[4] = out_of[link[0]], into[link[0]]
        link[5] = nodes[link[1]]["outputs"][link[2]]["type"]


def _lay_out(graph: Json) -> None:
    """Stack the nodes of each column of a group, fit the groups around them, and bands of groups below each other."""
    members = {id(group): [node for node in graph["nodes"] if _stands_in(node, group)] for group in graph["groups"]}
    band_top = min((group["bounding"][1] for group in graph["groups"]), default=0)
    for top in sorted({group["bounding"][1] for group in graph["groups"]}):
        band = [group for group in graph["groups"] if group["bounding"][1] == top]
        for group in band:
            _stack(members[id(group)], band_top + GROUP_TOP)
            _fit(group, members[id(group)], band_top)
        band_top = max(group["bounding"][1] + group["bounding"][3] for group in band) + BAND_GAP


def _stands_in(node: Json, group: Json) -> bool:
    x, y, width, height = group["bounding"]
    return x <= node["pos"][0] < x + width and y <= node["pos"][1] < y + height


def _stack(nodes: list[Json], top: int) -> None:
    for x in {node["pos"][0] for node in nodes}:
        y = top
        for node in sorted((node for node in nodes if node["pos"][0] == x), key=lambda node: node["pos"][1]):
            node["pos"][1] = y
            y += node["size"][1] + NODE_GAP


def _fit(group: Json, nodes: list[Json], top: int) -> None:
    left = min(node["pos"][0] for node in nodes) - GROUP_SIDE
    right = max(node["pos"][0] + node["size"][0] for node in nodes) + GROUP_SIDE
    bottom = max(node["pos"][1] + node["size"][1] for node in nodes) + GROUP_SIDE
    group["bounding"] = [left, top, right - left, bottom - top]


def as_text(value: Any, indent: int = 0) -> str:
    """JSON for people: what fits into a line and is no list of objects stands on one line."""
    inline = json.dumps(value, ensure_ascii=False)
    if not value or not isinstance(value, (dict, list)):
        return inline
    children = list(value.values()) if isinstance(value, dict) else value
    long_lists = [value, *children] if isinstance(value, dict) else [value]
    if len(inline) + indent <= 110 and not any(_holds_objects(child) for child in long_lists):
        return inline
    pad = " " * (indent + 2)
    names = [f"{json.dumps(name, ensure_ascii=False)}: " for name in value] if isinstance(value, dict) else None
    lines = [as_text(child, indent + 2) for child in children]
    lines = [name + line for name, line in zip(names, lines, strict=True)] if names else lines
    opening, closing = "{}" if names else "[]"
    return opening + "\n" + ",\n".join(pad + line for line in lines) + f"\n{' ' * indent}{closing}"


def _holds_objects(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value)


def main() -> None:
    address = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8188"
    with urllib.request.urlopen(f"{address.rstrip('/')}/object_info") as answer:  # noqa: S310 - the user's own host
        info = json.load(answer)
    for path in sorted(FOLDER.glob("*.json")):
        graph = refreshed(json.loads(path.read_text(encoding="utf-8")), info)
        path.write_text(as_text(graph) + "\n", encoding="utf-8")
        api = FOLDER / "api" / path.name
        api.write_text(as_text(api_form(graph, info)) + "\n", encoding="utf-8")
        print(path.name)


if __name__ == "__main__":
    main()
