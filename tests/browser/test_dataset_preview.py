"""The dataset preview: from the node's button to an edited caption on disk, by keyboard; hostile texts stay texts."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from browser_editor import Editor, expect
from host_graphs import node
from host_server import Host
from pack.trainer.moons.folder import render_moons
from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Locator

HOSTILE = "<img src=x onerror=window.hostile=1>"


def make_folder(host: Host, name: str, count: int = 3) -> Path:
    """Images of other sizes, two with captions, one with a caption and a name that are HTML, one broken file."""
    root = host.input / name
    root.mkdir(parents=True)
    for number, moon in enumerate(moons(count)):
        # the middle of it: another shape, another bucket
        moon.crop((0, 32, 256, 224) if number % 2 else (0, 0, 256, 256)).save(root / f"{number:05d}.png")
    Image.new("RGB", (64, 64), "red").save(root / f"z{HOSTILE}.png")
    (root / "00000.txt").write_text("a thin crescent", encoding="utf-8")
    (root / f"z{HOSTILE}.txt").write_text(HOSTILE, encoding="utf-8")
    (root / f"broken{HOSTILE}.png").write_bytes(b"no image")
    return root


def moons(count: int) -> list[Image.Image]:
    with tempfile.TemporaryDirectory() as folder:
        render_moons(Path(folder), count, 256, 4)
        return [Image.open(path).convert("RGB") for path in sorted(Path(folder).glob("*.png"))]


def load_dataset(folder: str) -> dict[str, Any]:
    inputs = {"folder": folder, "repeats": 2, "default_caption": "", "caption_extension": ".txt", "caption_table": ""}
    return node("MjesecLoadImageDataset", **inputs)


@pytest.fixture
def folder(editor: Editor, request: pytest.FixtureRequest) -> Path:
    return make_folder(editor.host, re.sub(r"\W", "_", request.node.name))


@pytest.fixture
def preview(editor: Editor, folder: Path) -> Iterator[Locator]:
    """The preview of a node that never ran, connected to settings of 256 pixels."""
    dialog = open_preview(editor, folder)
    yield dialog
    editor.page.keyboard.press("Escape")


def open_preview(editor: Editor, folder: Path) -> Locator:
    settings = node("MjesecTrainSettings", resolution=256)
    # the page learns of new folders as a user's does, by its node definitions
    editor.js("() => window.app.refreshComboInNodes()")
    graph = {"1": load_dataset(f"input/{folder.name}"), "2": settings}
    graph["1"]["inputs"]["settings"] = ["2", 0]
    editor.open_api(graph)
    editor.press("MjesecLoadImageDataset", "Preview dataset")
    dialog = editor.page.get_by_role("dialog", name="Dataset")
    expect(dialog.get_by_role("option").first).to_be_visible(timeout=30_000)
    return dialog


def test_a_dataset_is_looked_through_and_a_caption_edited_by_keyboard(
    preview: Locator, editor: Editor, folder: Path
) -> None:
    images = preview.get_by_role("option")
    expect(images).to_have_count(4)
    expect(images.first.locator("img")).to_have_js_property("naturalWidth", 256)
    rows = preview.locator(".mj-table tbody tr")
    expect(rows).to_have_count(3)
    assert rows.first.inner_text().split() == ["256", "×", "256", "2", "4", "0", "%"]
    expect(preview.get_by_label("Resolution")).to_have_value("256")
    assert_laid_out(images.first)
    editor.shot("dataset_preview")

    # the second image, by keyboard: a caption is typed, saved, and the third image follows
    expect(images.first).to_be_focused()
    editor.page.keyboard.press("ArrowRight")
    editor.page.keyboard.press("Enter")
    text = preview.get_by_role("textbox", name="Caption")
    expect(text).to_be_focused()
    expect(preview.get_by_text("There is no caption file yet.")).to_be_visible()
    editor.page.keyboard.type("a crescent, <b>craters</b>")
    editor.shot("caption_editor")
    editor.page.keyboard.press("Control+Enter")
    expect(preview.get_by_text("3 of 4")).to_be_visible()
    assert (folder / "00001.txt").read_text(encoding="utf-8") == "a crescent, <b>craters</b>"

    # back by keys, changed again; the former text is kept and can be had back
    editor.page.keyboard.press("PageUp")
    expect(text).to_have_value("a crescent, <b>craters</b>")
    editor.page.keyboard.press("Control+a")
    editor.page.keyboard.type("worse")
    preview.get_by_role("button", name="Save", exact=True).click()
    expect(preview.get_by_text("saved", exact=True)).to_be_visible()
    assert (folder / "00001.txt").read_text(encoding="utf-8") == "worse"
    preview.get_by_role("button", name="Previous text").click()
    expect(text).to_have_value("a crescent, <b>craters</b>")
    text.press("Control+Enter")
    expect(preview.get_by_text("3 of 4")).to_be_visible()
    kept = (folder / ".mjesec_captions.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["text"] for line in kept] == ["", "a crescent, <b>craters</b>", "worse"]
    preview.get_by_role("button", name="← all images").click()
    expect(images.nth(1)).to_contain_text("a crescent, <b>craters</b>")
    expect(images.nth(2)).to_be_focused()

    editor.page.keyboard.press("Escape")
    expect(preview).to_be_hidden()
    # nothing of it is part of the graph
    assert set(editor.prompt()["1"]["inputs"]) == {
        "folder", "repeats", "default_caption", "caption_extension", "caption_table", "settings",
    }  # fmt: skip


def assert_laid_out(tile: Locator) -> None:
    """The picture above, its caption below it, both as wide as the tile."""
    around, picture, words = (place.bounding_box() for place in (tile, tile.locator("img"), tile.locator(".mj-words")))
    assert around and picture and words
    assert around["width"] >= 168 and round(around["height"]) == 236
    assert round(picture["height"]) == 168 and around["width"] - picture["width"] <= 2
    assert words["y"] >= picture["y"] + picture["height"] and around["width"] - words["width"] <= 2


def test_buckets_are_those_of_the_settings_on_the_wires(editor: Editor, folder: Path) -> None:
    editor.js("() => window.app.refreshComboInNodes()")
    data = load_dataset(f"input/{folder.name}")
    data["inputs"]["settings"] = ["3", 0]
    kohya = node("MjesecLoadKohyaConfig", text="resolution = 512\nmax_train_steps = 5", resolution=0)
    options = node("MjesecImageOptions", settings=["2", 0], bucket_upscale="on", bucket_step=128)
    editor.open_api({"1": data, "2": kohya, "3": options})
    editor.press("MjesecLoadImageDataset", "Preview dataset")
    preview = editor.page.get_by_role("dialog", name="Dataset")
    row = preview.locator(".mj-table tbody tr").first
    expect(row).to_contain_text("1024 × 1024", timeout=30_000)
    expect(preview.get_by_label("Resolution")).to_have_value("1024")
    expect(preview.get_by_text("Sides are multiples of 128 from 256 to 2048")).to_be_visible()
    expect(preview.get_by_text("The kohya configuration is read only when the graph runs")).to_be_visible()
    preview.get_by_label("Resolution").fill("512")
    preview.get_by_label("Resolution").press("Tab")
    expect(row).to_contain_text("512 × 512")
    editor.page.keyboard.press("Escape")


def test_search_and_problems_narrow_the_sheet_and_hostile_texts_stay_texts(preview: Locator, editor: Editor) -> None:
    images = preview.get_by_role("option")
    expect(preview.locator(".mj-problems")).to_contain_text(HOSTILE)
    preview.get_by_role("searchbox", name="Search").fill("hostile onerror")
    expect(images).to_have_count(1)
    expect(images.first.locator(".mj-words")).to_have_text(HOSTILE)
    images.first.click()
    expect(preview.get_by_role("textbox", name="Caption")).to_have_value(HOSTILE)
    expect(preview.locator(".mj-side strong").first).to_have_text(f"z{HOSTILE}.png")
    preview.get_by_role("button", name="← all images").click()
    preview.get_by_role("searchbox", name="Search").fill("")
    preview.get_by_label("only with problems").check()
    expect(images).to_have_count(2)
    expect(preview.get_by_text("2 of 4 images")).to_be_visible()
    assert editor.js("() => window.hostile") is None


def test_a_caption_that_changed_on_disk_is_not_overwritten_unasked(
    preview: Locator, editor: Editor, folder: Path
) -> None:
    preview.get_by_role("option").first.click()
    text = preview.get_by_role("textbox", name="Caption")
    expect(text).to_have_value("a thin crescent")
    (folder / "00000.txt").write_text("by another program", encoding="utf-8")
    text.fill("mine")
    # the browser itself notes the refusal in its console
    text.press("Control+Enter")
    expect(preview.get_by_role("alert")).to_contain_text("has changed on disk")
    expect(preview.locator(".mj-quote")).to_have_text("by another program")
    editor.shot("caption_conflict")
    assert (folder / "00000.txt").read_text(encoding="utf-8") == "by another program"
    preview.get_by_role("button", name="Save mine over it").click()
    expect(preview.get_by_text("saved", exact=True)).to_be_visible()
    assert (folder / "00000.txt").read_text(encoding="utf-8") == "mine"
    # what is typed and not saved outlives the dialog
    text.fill("typed only")
    editor.page.keyboard.press("Escape")
    editor.press("MjesecLoadImageDataset", "Preview dataset")
    preview.get_by_role("option").first.click()
    expect(text).to_have_value("typed only")
    assert (folder / "00000.txt").read_text(encoding="utf-8") == "mine"
    refused = [problem for problem in editor.problems if "409" in problem]
    assert len(refused) == 1
    editor.problems.remove(refused[0])


def test_captions_that_are_not_saved_outlive_a_reload_and_totals_follow_what_is_saved(
    preview: Locator, editor: Editor, folder: Path
) -> None:
    preview.get_by_role("option").nth(1).click()
    text = preview.get_by_role("textbox", name="Caption")
    expect(text).to_be_editable()
    text.fill("typed only")
    editor.load()
    preview = open_preview(editor, folder)
    totals, images = preview.locator(".mj-side .mj-facts"), preview.get_by_role("option")
    expect(totals).to_contain_text(re.compile(r"with a caption\s*2"))
    preview.get_by_label("only not saved").check()
    expect(images).to_have_count(1)
    expect(images.first).to_contain_text("not saved")
    editor.shot("captions_not_saved")
    images.first.click()
    expect(text).to_have_value("typed only")
    preview.get_by_role("button", name="Save", exact=True).click()
    expect(preview.get_by_text("saved", exact=True)).to_be_visible()
    assert (folder / "00001.txt").read_text(encoding="utf-8") == "typed only"
    preview.get_by_role("button", name="← all images").click()
    expect(totals).to_contain_text(re.compile(r"with a caption\s*3"))
    expect(images).to_have_count(0)


@pytest.mark.parametrize("width", [400, 600, 1440])
def test_captions_are_edited_in_any_window_whatever_the_names(editor: Editor, folder: Path, width: int) -> None:
    long, broken = (f"{letter * 120}.png" for letter in "01")
    Image.new("RGB", (64, 64), "teal").save(folder / long)
    (folder / broken).write_bytes(b"no image")
    preview = open_preview(editor, folder)
    with editor.window(width, 700):
        editor.shot(f"dataset_{width}")
        expect(preview.get_by_role("option").first).to_be_in_viewport(ratio=0.5)
        assert_nothing_sideways(preview)
        preview.get_by_role("option", name=long).click()
        text = preview.get_by_role("textbox", name="Caption")
        expect(text).to_be_editable()
        editor.shot(f"caption_{width}")
        assert_nothing_sideways(preview)
        for part in (preview.locator(".mj-large img"), text):
            expect(part).to_be_in_viewport(ratio=0.9)
            box = part.bounding_box()
            assert box and box["width"] > 300
    editor.page.keyboard.press("Escape")


def assert_nothing_sideways(preview: Locator) -> None:
    wide = "each => each.filter(one => one.scrollWidth > one.clientWidth + 1).map(one => one.className)"
    assert preview.locator(".mj-side, .mj-main, .mj-viewer, .mj-scroller, .mj-bar").evaluate_all(wide) == []


def test_thousands_of_images_are_made_as_they_come_into_view(editor: Editor) -> None:
    root = editor.host.input / f"many_{editor.renderer}"
    root.mkdir()
    Image.new("RGB", (16, 16), "teal").save(root / "00000.png")
    for number in range(1, 1500):
        (root / f"{number:05d}.png").write_bytes((root / "00000.png").read_bytes())
    editor.js("() => window.app.refreshComboInNodes()")
    editor.open_api({"1": load_dataset(f"input/{root.name}")})
    fetched: set[str] = set()
    editor.page.on("request", lambda request: "/image?" in request.url and fetched.add(request.url))
    editor.press("MjesecLoadImageDataset", "Preview dataset")
    preview = editor.page.get_by_role("dialog", name="Dataset")
    images = preview.get_by_role("option")
    expect(preview.get_by_text("1500 of 1500 images")).to_be_visible(timeout=60_000)
    expect(images.first.locator("img")).to_have_js_property("naturalWidth", 16)
    assert images.count() <= 600 and 0 < len(fetched) < 100
    preview.get_by_role("searchbox", name="Search").fill("01499")
    expect(images).to_have_count(1)
    editor.page.keyboard.press("Escape")


def test_what_a_node_made_is_shown_once_it_has_run(editor: Editor) -> None:
    # of a node that the host's cache answers for, it tells the page nothing
    moons = node("MjesecMoonDataset", count=24, size=128, seed={"canvas": 9, "vue": 10}[editor.renderer])
    editor.open_api({"1": moons, "2": node("PreviewAny", source=["1", 2])})
    editor.press("MjesecMoonDataset", "Preview dataset")
    preview = editor.page.get_by_role("dialog", name="Dataset")
    expect(preview.get_by_role("alert")).to_contain_text("Queue the graph first")
    editor.page.keyboard.press("Escape")
    editor.queue()
    editor.press("MjesecMoonDataset", "Preview dataset")
    expect(preview.get_by_role("option")).to_have_count(24)
    expect(preview.get_by_role("option").nth(9).locator("img")).to_have_js_property("naturalWidth", 128)
    editor.shot("dataset_of_moons")
    preview.get_by_role("option").first.click()
    expect(preview.get_by_role("textbox", name="Caption")).not_to_be_editable()
    editor.page.keyboard.press("Escape")
