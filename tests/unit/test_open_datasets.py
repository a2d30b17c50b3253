"""Datasets that somebody looks at: scanned once beside other work, shown as plain values, captions edited in place."""

from __future__ import annotations

import dataclasses
import io
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pack.trainer.dataset import open_datasets
from pack.trainer.dataset.buckets import BucketSettings
from pack.trainer.dataset.caption_editor import CaptionConflict, CaptionEditor
from pack.trainer.dataset.caption_tables import read_caption_table
from pack.trainer.dataset.open_datasets import OpenDataset, OpenDatasets
from pack.trainer.dataset.scan import scan_folder
from pack.trainer.errors import DatasetError
from PIL import Image

HOSTILE = "<img src=x onerror=window.hostile=1>"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    sizes = {"a.png": (640, 512), "a.jpg": (512, 640), "10_moon/b.png": (512, 512), f"{HOSTILE}.png": (64, 64)}
    for name, size in sizes.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", size, "teal").save(tmp_path / name)
    (tmp_path / "a.txt").write_text("old", encoding="utf-8")
    (tmp_path / f"{HOSTILE}.txt").write_text(HOSTILE, encoding="utf-8")
    (tmp_path / "broken.png").write_bytes(b"x")
    return tmp_path


def opened(folder: Path, table: str = "") -> OpenDataset:
    dataset = scan_folder(folder, caption_table=table)
    return OpenDataset(dataset, CaptionEditor(folder), read_caption_table(folder / table) if table else None)


def image_of(view: dict[str, list[dict[str, object]]], name: str) -> dict[str, object]:
    return next(image for image in view["images"] if image["name"] == name)


def test_the_view_is_json_with_every_image_and_every_problem(folder: Path) -> None:
    view = json.loads(json.dumps(opened(folder).view(), allow_nan=False))
    hostile = f"{HOSTILE}.png"
    assert sorted(image["name"] for image in view["images"]) == ["10_moon/b.png", hostile, "a.jpg", "a.png"]
    assert image_of(view, hostile)["caption"] == HOSTILE
    moon = image_of(view, "10_moon/b.png")
    assert (moon["caption"], moon["repeats"], moon["size"]) == ("moon", 10, [512, 512])
    assert "no file 'b.txt'" in str(moon["problems"]) and "problems" not in image_of(view, "a.png")
    assert [entry["name"] for entry in view["others"] if "Broken" in entry["told"]] == ["broken.png"]
    totals = view["totals"]
    assert (totals["images"], totals["with_repeats"], totals["captioned"], view["read_only"]) == (4, 13, 4, "")


def test_buckets_count_images_repeats_and_lost_pixels(folder: Path) -> None:
    found = opened(folder).buckets(BucketSettings(resolution=(512, 512)))
    assert found["buckets"][0] == {"size": [512, 512], "images": 1, "with_repeats": 10, "lost": 0.0, "enlarged": 0}
    assert sum(row["images"] for row in found["buckets"]) == found["all"]["images"] == 4
    # 640 x 512 is shrunk to 572 x 458 or the like and cropped to a multiple of 64
    assert any(row["lost"] > 5 for row in found["buckets"]) and 0 < found["all"]["lost"] < 5


def test_pictures_are_small_and_only_of_the_dataset(folder: Path) -> None:
    shown = opened(folder)
    with Image.open(io.BytesIO(shown.picture("a.png", 64))) as picture:
        assert (picture.format, picture.size) == ("WEBP", (64, 51))
    for name in ("../a.png", "broken.png", "a.txt", ""):
        with pytest.raises(DatasetError, match="There is no image"):
            shown.picture(name, 64)
        with pytest.raises(DatasetError, match="There is no image"):
            shown.edit(name, "x", "")


def test_an_edit_shows_in_all_images_of_that_caption_and_mends_their_problems(folder: Path) -> None:
    shown = opened(folder)
    told = shown.edit("a.jpg", "new\nsecond line", shown.caption("a.png")["version"])
    assert {image["name"]: image["caption"] for image in told["changed"]} == {"a.jpg": "new", "a.png": "new"}
    assert told["used"] == "new" and told["text"] == "new\nsecond line" and told["earlier"] == ["old"]
    mended = shown.edit("10_moon/b.png", "a moon", "")
    assert [(image["caption"], image.get("problems")) for image in mended["changed"]] == [("a moon", None)]
    assert mended["totals"] == shown.view()["totals"]
    assert mended["totals"]["problems"] == told["totals"]["problems"] - 1
    emptied = shown.edit("10_moon/b.png", "", mended["version"])
    assert "empty" in str(emptied["changed"][0]["problems"])
    with pytest.raises(CaptionConflict):
        shown.edit("a.png", "mine", "0" * 64)
    assert scan_folder(folder).samples[0].caption == shown.view()["images"][0]["caption"]


def test_captions_that_are_saved_at_once_are_all_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown, names = opened(folder), ["a.png", "10_moon/b.png", f"{HOSTILE}.png"]

    def slow(*given: Any, **changes: Any) -> Any:
        time.sleep(0.05)
        return dataclasses.replace(*given, **changes)

    monkeypatch.setattr(open_datasets, "replace", slow)
    with ThreadPoolExecutor() as threads:
        list(threads.map(lambda name: shown.edit(name, "new", shown.caption(name)["version"]), names))
    assert {image["caption"] for image in shown.view()["images"]} == {"new"}


def test_captions_of_a_table_and_of_nodes_are_only_read(folder: Path) -> None:
    (folder / "meta.jsonl").write_text('{"file_name": "a.png", "text": "from the table"}', encoding="utf-8")
    for shown, text, reason in (
        (opened(folder, "meta.jsonl"), "from the table", "caption table"),
        (OpenDataset(scan_folder(folder)), "old", "nodes"),
    ):
        caption = shown.caption("a.png")
        assert caption["text"] == text and reason in caption["reason"]
        with pytest.raises(DatasetError, match=reason):
            shown.edit("a.png", "mine", caption["version"])
    assert (folder / "a.txt").read_text(encoding="utf-8") == "old"


def test_a_long_scan_tells_how_far_it_is_and_is_not_begun_twice(folder: Path) -> None:
    datasets, go, began = OpenDatasets(), threading.Event(), []

    def scan(on_progress: Callable[[int, int], None]) -> OpenDataset:
        began.append(1)
        on_progress(3, 9)
        assert go.wait(30)
        return opened(folder)

    assert datasets.scan("key", scan, 0.2) == datasets.scan("key", scan, 0.01) == (3, 9)
    go.set()
    found = datasets.scan("key", scan, 30)
    assert isinstance(found, OpenDataset) and began == [1] and datasets.find(found.id) is found


def test_a_scan_that_fails_says_why_and_can_be_tried_again(folder: Path) -> None:
    datasets = OpenDatasets()

    def fails(_: Callable[[int, int], None]) -> OpenDataset:
        raise DatasetError("no")

    with pytest.raises(DatasetError, match="no"):
        datasets.scan("key", fails, 30)
    assert isinstance(datasets.scan("key", lambda _: opened(folder), 30), OpenDataset)


def test_only_the_last_ones_are_kept(folder: Path) -> None:
    datasets, dataset = OpenDatasets(), scan_folder(folder)
    ids = [datasets.keep(OpenDataset(dataset, CaptionEditor(folder, f".t{number}"))) for number in range(40)]
    assert datasets.find(ids[0]) is None and datasets.find(ids[-1]) is not None
