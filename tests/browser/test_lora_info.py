"""The LoRA info: what a file tells, hostile files, and the way back to the training graph, by button and by drop."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from browser_editor import Editor, expect
from host_graphs import node, training
from host_server import Host

if TYPE_CHECKING:
    from playwright.sync_api import Locator

HOSTILE = "<img src=x onerror=window.hostile=1>"
# a file as a file manager gives it to the editor
DROP = """([name, base64]) => {
    const bytes = Uint8Array.from(atob(base64), letter => letter.charCodeAt(0))
    const data = new DataTransfer()
    data.items.add(new File([bytes], name))
    const canvas = document.querySelector('#graph-canvas')
    const at = { clientX: 700, clientY: 450, dataTransfer: data, bubbles: true, cancelable: true }
    canvas.dispatchEvent(new DragEvent('drop', at))
}"""


@pytest.fixture(scope="module")
def trained(host: Host) -> str:
    """The name of a LoRA that the host trained, of a graph as the API takes it."""
    outputs = host.run(training(output_name="shown"))["outputs"]
    return str(outputs["train"]["mjesec_lora"][0])


def load_lora(name: str) -> dict[str, Any]:
    return node("MjesecLoadLora", lora_name=name, strength_model=1.0, strength_clip=1.0)


def open_info(editor: Editor, graph: dict[str, Any]) -> Locator:
    editor.js("() => window.app.refreshComboInNodes()")
    editor.open_api(graph)
    editor.press("MjesecLoadLora", "LoRA info")
    return editor.page.get_by_role("dialog", name="LoRA info")


def facts(dialog: Locator, title: str) -> dict[str, str]:
    section = dialog.locator("section").filter(has=dialog.page.get_by_role("heading", name=title, exact=True))
    names, values = (section.locator(f".mj-facts {tag}").all_inner_texts() for tag in ("dt", "dd"))
    return dict(zip(names, values, strict=True))


def test_a_lora_tells_how_it_was_trained_and_its_graph_is_restored(editor: Editor, trained: str) -> None:
    dialog = open_info(editor, {"1": load_lora(trained)})
    expect(dialog.get_by_role("combobox", name="LoRA", exact=True)).to_have_value(trained)
    expect(dialog.get_by_role("heading", name="Training")).to_be_visible()
    assert {"steps": "2", "optimizer": "torch.optim.adamw.AdamW(weight_decay=0.0)"}.items() <= facts(
        dialog, "Training"
    ).items()
    assert {"rank": "4", "alpha": "4.0"}.items() <= facts(dialog, "Network").items()
    assert facts(dialog, "Base model")["checkpoint"] == "tiny_sdxl.safetensors"
    assert dialog.locator(".mj-chip").count() > 2
    expect(dialog.locator(".mj-pictures img")).to_have_count(6)
    expect(dialog.locator(".mj-pictures img").first).to_have_js_property("naturalWidth", 128)
    editor.shot("lora_info")
    dialog.get_by_role("button", name="Restore the training graph").click()
    expect(dialog).to_be_hidden()
    editor.page.wait_for_function("() => window.app.graph.nodes.length === 4")
    assert_is(editor.prompt(), training(output_name="shown"))


def assert_is(graph: dict[str, Any], made: dict[str, Any]) -> None:
    """The same nodes with the same inputs, and with widgets that were left at their defaults."""
    assert sorted(graph) == sorted(made)
    for name, wanted in made.items():
        assert graph[name]["class_type"] == wanted["class_type"]
        assert wanted["inputs"].items() <= graph[name]["inputs"].items()


def test_a_lora_that_is_dropped_on_the_editor_restores_its_graph(editor: Editor, trained: str) -> None:
    editor.open_api({"1": load_lora(trained)})
    data = (editor.host.output / "loras" / trained).read_bytes()
    editor.js(DROP, ["dropped.safetensors", base64.b64encode(data).decode()])
    editor.page.wait_for_function("() => window.app.graph.nodes.length === 4")
    assert_is(editor.prompt(), training(output_name="shown"))


def test_the_editors_own_graph_comes_back_with_its_places(editor: Editor, trained: str) -> None:
    """Queued by the Run button, the LoRA carries the editor's workflow; Load LoRA on the training's wire shows it."""
    name = f"own_{editor.renderer}"
    graph = training(output_name=name, seed=3)
    # the file on the node is not what it loads
    graph["load"] = load_lora(trained)
    graph["load"]["inputs"] |= {"model": ["ckpt", 0], "lora": ["train", 0]}
    editor.open_api(graph)
    editor.js("() => { window.app.graph.nodes.find(node => node.type === 'MjesecTrainLora').pos = [2777, 55] }")
    dialog = editor.page.get_by_role("dialog", name="LoRA info")
    editor.press("MjesecLoadLora", "LoRA info")
    expect(dialog.get_by_text("It is not known which LoRA")).to_be_visible()
    editor.page.keyboard.press("Escape")
    editor.queue()
    editor.press("MjesecLoadLora", "LoRA info")
    expect(dialog.get_by_role("combobox", name="LoRA", exact=True)).to_have_value(f"{name}.safetensors")
    editor.page.keyboard.press("Escape")
    # the training itself has it in its menu
    menu = editor.js(MENU, "MjesecTrainLora")
    assert "LoRA info" in menu
    expect(dialog.get_by_role("combobox", name="LoRA", exact=True)).to_have_value(f"{name}.safetensors")
    dialog.get_by_role("button", name="Restore the training graph").click()
    editor.page.wait_for_function("name => document.title.includes(name)", arg=name)
    editor.settle()
    place = editor.js("() => [...window.app.graph.nodes.find(node => node.type === 'MjesecTrainLora').pos]")
    assert [round(side) for side in place] == [2777, 55]
    assert_is(editor.prompt(), graph)


# the entries that extensions add to a node's menu, the last of ours pressed
MENU = """kind => {
    const node = window.app.graph.nodes.find(node => node.type === kind)
    const entries = window.app.collectNodeMenuItems(node).filter(Boolean)
    entries.findLast(entry => entry.content === 'LoRA info')?.callback()
    return entries.map(entry => entry.content)
}"""


def test_hostile_and_empty_files_are_told_as_text(editor: Editor) -> None:
    tags = json.dumps({HOSTILE: {HOSTILE: 3}})
    directories = json.dumps({HOSTILE: {"n_repeats": HOSTILE, "img_count": HOSTILE}})
    pictures = json.dumps(["javascript:window.hostile=1", "data:text/html;base64,PGI+", HOSTILE])
    put_file(
        editor.host.output / "loras" / f"hostile{HOSTILE}.safetensors",
        {
            "ss_steps": HOSTILE, "ss_output_name": HOSTILE, "ss_tag_frequency": tags, "ss_dataset_dirs": directories,
            "mjesec_thumbnails": pictures, "modelspec.trigger_phrase": HOSTILE, HOSTILE: HOSTILE, "workflow": "{",
        },
    )  # fmt: skip
    put_file(editor.host.output / "loras" / "silent.safetensors", {})
    dialog = open_info(editor, {"1": load_lora("(lora input)")})
    expect(dialog.get_by_text("It is not known which LoRA")).to_be_visible()
    chooser = dialog.get_by_role("combobox", name="LoRA", exact=True)
    chooser.select_option(f"hostile{HOSTILE}.safetensors")
    expect(dialog.get_by_role("heading", name="Training")).to_be_visible()
    assert facts(dialog, "Training")["steps"] == HOSTILE
    assert dialog.locator(".mj-chip").first.inner_text().startswith(HOSTILE)
    dialog.locator("summary").click()
    expect(dialog.get_by_role("button", name="Restore the training graph")).to_be_disabled()
    assert dialog.locator("img").count() == 0 and editor.js("() => window.hostile") is None
    editor.shot("lora_info_hostile")
    chooser.select_option("silent.safetensors")
    expect(dialog.get_by_text("does not tell which words")).to_be_visible()
    editor.page.keyboard.press("Escape")


def put_file(path: Path, metadata: dict[str, str]) -> None:
    header = json.dumps({"__metadata__": metadata}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
