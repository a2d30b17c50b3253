"""Captions as somebody edits them: written whole or not at all, the former text kept, never outside."""

from __future__ import annotations

import errno
import json
import os
import signal
from pathlib import Path

import pytest
from pack.trainer import files
from pack.trainer.dataset.caption_editor import HISTORY, CaptionConflict, CaptionEditor
from pack.trainer.dataset.scan import scan_folder
from pack.trainer.errors import DatasetError
from PIL import Image

HOSTILE = "<img src=x onerror=window.hostile=1> \"'&\u202e\u0000".replace("\0", "")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    for name in ("a.png", "b.png", "10_moon/c.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (len(name), 9, ord(name[-5]))).save(root / name)
    (root / "a.txt").write_text("a moon", encoding="utf-8")
    return root


def history(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / HISTORY).read_text(encoding="utf-8").splitlines()]


def test_an_edit_is_on_disk_and_the_former_text_is_kept(folder: Path) -> None:
    editor = CaptionEditor(folder)
    before = editor.read("a.png")
    assert (before.file, before.text, before.earlier) == ("a.txt", "a moon", ())
    after = editor.write("a.png", "a full moon", before.version)
    assert (folder / "a.txt").read_text(encoding="utf-8") == after.text == "a full moon"
    assert after.earlier == ("a moon",) and after.version != before.version
    assert [(entry["file"], entry["text"]) for entry in history(folder)] == [("a.txt", "a moon")]
    again = editor.write("a.png", "a moon", after.version)
    assert again.earlier == ("a full moon",) and again.version == before.version


def test_a_caption_that_was_missing_is_made_and_an_unchanged_one_is_not_written(folder: Path) -> None:
    editor = CaptionEditor(folder)
    made = editor.write("10_moon/c.png", "", editor.read("10_moon/c.png").version)
    assert (folder / "10_moon" / "c.txt").read_bytes() == b"" and made.version
    assert history(folder)[0]["existed"] is False
    editor.write("10_moon/c.png", "", made.version)
    assert len(history(folder)) == 1


def test_the_history_is_nothing_to_a_scan(folder: Path) -> None:
    editor = CaptionEditor(folder)
    before = scan_folder(folder)
    editor.write("a.png", "new", editor.read("a.png").version)
    after = scan_folder(folder)
    assert after.problems == before.problems
    assert [sample.caption for sample in after.samples] == ["new", "", "moon"]


@pytest.mark.parametrize("text", [HOSTILE, "čćđšž 月 🌕", "one\ntwo\r\n", "{a|b}, <lora:x:1>"])
def test_text_of_any_kind_comes_back_as_it_was(folder: Path, text: str) -> None:
    editor = CaptionEditor(folder)
    editor.write("a.png", text, editor.read("a.png").version)
    assert (folder / "a.txt").read_bytes() == text.encode()
    assert editor.write("a.png", "other", editor.read("a.png").version).earlier[0] == text


def test_a_caption_in_another_encoding_is_kept_to_the_byte(folder: Path) -> None:
    import base64

    written = "crescent café".encode("cp1252")
    (folder / "a.txt").write_bytes(written)
    editor = CaptionEditor(folder)
    assert editor.write("a.png", "x", editor.read("a.png").version).earlier == ("crescent café",)
    assert base64.b64decode(str(history(folder)[0]["base64"])) == written


@pytest.mark.parametrize("change", ["edited", "removed"])
def test_a_caption_that_changed_meanwhile_is_not_overwritten(folder: Path, change: str) -> None:
    editor = CaptionEditor(folder)
    before = editor.read("a.png")
    if change == "edited":
        (folder / "a.txt").write_text("by somebody else", encoding="utf-8")
    else:
        (folder / "a.txt").unlink()
    with pytest.raises(CaptionConflict, match="has changed on disk"):
        editor.write("a.png", "mine", before.version)
    assert editor.read("a.png").text == ("by somebody else" if change == "edited" else "")
    assert not (folder / HISTORY).exists()


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_disk_that_refuses_leaves_the_former_text(
    folder: Path, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor = CaptionEditor(folder)
    version = editor.read("a.png").version

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, failing, refuse)
    with pytest.raises(DatasetError, match="No space left"):
        editor.write("a.png", "lost", version)
    monkeypatch.undo()
    assert (folder / "a.txt").read_text(encoding="utf-8") == "a moon"
    assert sorted(path.name for path in folder.iterdir() if path.name.endswith(".part")) == []
    assert editor.write("a.png", "kept", version).text == "kept"


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="no limit for the size of files")
@pytest.mark.parametrize("room", [0, 40])
def test_a_former_text_for_which_there_is_not_room_enough_is_not_replaced(folder: Path, room: int) -> None:
    import resource

    editor = CaptionEditor(folder)
    editor.write("a.png", "a moon, " * 40, editor.read("a.png").version)
    before, kept = editor.read("a.png"), (folder / HISTORY).read_bytes()
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(kept) + room, limits[1]))
    try:
        with pytest.raises(DatasetError, match=f"could not be kept in '{HISTORY}' .*, so nothing was changed"):
            editor.write("a.png", "", before.version)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert editor.read("a.png") == before and (folder / HISTORY).read_bytes() == kept
    assert editor.write("a.png", "", before.version).earlier[0] == before.text


@pytest.mark.parametrize(
    "name",
    [
        "../a.png", "..", "", "/etc/passwd", "a.txt", "none.png", "10_moon/../a.png", "10_moon//c.png", "./a.png",
        "10_moon/deep/c.png", ".hidden.png", "a.png\0", "10_moon", "out.png", "away/secret.png", "a" * 300 + ".png",
    ],
)  # fmt: skip
def test_names_that_lead_elsewhere_are_no_images(folder: Path, name: str, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    for secret in ("secret.png", "out.png"):
        Image.new("RGB", (8, 8)).save(outside / secret)
    (folder / "out.png").symlink_to(outside / "out.png")
    (folder / "away").symlink_to(outside)
    (folder / ".hidden.png").write_bytes(b"x")
    (folder / "10_moon" / "deep").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "10_moon" / "deep" / "c.png")
    with pytest.raises(DatasetError, match="There is no image"):
        CaptionEditor(folder).write(name, "text", "")
    assert not [path for path in outside.rglob("*") if path.suffix == ".txt"]


def test_captions_and_histories_that_are_links_are_not_followed(folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("secret", encoding="utf-8")
    (folder / "b.txt").symlink_to(secret)
    editor = CaptionEditor(folder)
    for work in (lambda: editor.read("b.png"), lambda: editor.write("b.png", "x", "")):
        with pytest.raises(DatasetError, match="is a link"):
            work()
    version = editor.read("a.png").version
    (folder / HISTORY).symlink_to(tmp_path / "history")
    with pytest.raises(DatasetError, match="is a link"):
        editor.write("a.png", "x", version)
    assert secret.read_text(encoding="utf-8") == "secret" and not (tmp_path / "history").exists()
    assert (folder / "a.txt").read_text(encoding="utf-8") == "a moon"


@pytest.mark.parametrize("extension", [".png", ".JPG", ".jsonl", ".safetensors", "", "txt", "./x", ".a/b", ".\0"])
def test_images_and_tables_can_never_be_the_caption(folder: Path, extension: str) -> None:
    with pytest.raises(DatasetError, match="are no captions"):
        CaptionEditor(folder, extension)


@pytest.mark.parametrize("text", ["\ud800", "a\0b", "x" * (1 << 20) + "y"])
def test_text_that_is_no_caption_is_refused(folder: Path, text: str) -> None:
    editor = CaptionEditor(folder)
    with pytest.raises(DatasetError):
        editor.write("a.png", text, editor.read("a.png").version)
    assert (folder / "a.txt").read_text(encoding="utf-8") == "a moon"


def test_a_history_that_a_crash_cut_off_is_read_and_gone_on_with(folder: Path) -> None:
    editor = CaptionEditor(folder)
    first = editor.write("a.png", "second", editor.read("a.png").version)
    with open(folder / HISTORY, "ab") as file:
        file.write(b'[1]\nnull\n{"file": "a.txt", "text": "cut o')
    second = editor.write("a.png", "third", first.version)
    assert second.earlier == ("second", "a moon")


def test_the_permissions_stay(folder: Path) -> None:
    if os.name == "nt":
        pytest.skip("Windows has no such permissions")
    (folder / "a.txt").chmod(0o640)
    editor = CaptionEditor(folder)
    editor.write("a.png", "new", editor.read("a.png").version)
    assert (folder / "a.txt").stat().st_mode & 0o777 == 0o640
