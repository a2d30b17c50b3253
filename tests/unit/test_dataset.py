"""Folders as users have them: what becomes a sample, what becomes a line in the report, what is refused."""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pack.trainer.dataset import scan as dataset_module
from pack.trainer.dataset.buckets import BucketSettings
from pack.trainer.dataset.report import dataset_report
from pack.trainer.dataset.scan import Dataset, scan_folder
from pack.trainer.errors import DatasetError
from PIL import Image


def put_image(path: Path, size: tuple[int, int] = (24, 16), seed: int | None = None, **options: object) -> Path:
    """A picture of noise, different for every name unless a seed is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = zlib.crc32(path.name.encode()) if seed is None else seed
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def put(folder: Path, captions: dict[str, str | bytes | None]) -> Path:
    """Images with captions beside them; None for an image without one."""
    for name, caption in captions.items():
        path = put_image(folder / name)
        if caption is not None:
            data = caption if isinstance(caption, bytes) else caption.encode()
            path.with_suffix(".txt").write_bytes(data)
    return folder


def named(dataset: Dataset) -> list[tuple[str, str, int]]:
    return [(dataset.name_of(s), s.caption, s.repeats) for s in dataset.samples]


def problems(dataset: Dataset) -> list[tuple[str, str]]:
    return sorted((p.kind, p.path) for p in dataset.problems)


def test_a_flat_folder_is_read_in_the_order_of_its_names(tmp_path) -> None:
    put(tmp_path, {"c.png": "third", "a.jpg": "first", "b.webp": "second"})
    dataset = scan_folder(tmp_path)
    assert named(dataset) == [("a.jpg", "first", 1), ("b.webp", "second", 1), ("c.png", "third", 1)]
    assert dataset.problems == ()
    assert (dataset.num_images, dataset.num_images_with_repeats) == (3, 3)
    assert {(s.width, s.height) for s in dataset.samples} == {(24, 16)}
    assert os.path.isabs(dataset.samples[0].path)


def test_sub_folders_give_repeats_and_a_caption_where_none_is_written(tmp_path) -> None:
    put(tmp_path / "10_full moon", {"a.png": "the moon in May", "b.png": None})
    put(tmp_path / "3_sun", {"a.png": None})
    put(tmp_path / "4_", {"c.png": None})
    dataset = scan_folder(tmp_path, repeats=7, default_caption="where no name is")
    assert named(dataset) == [
        ("10_full moon/a.png", "the moon in May", 10),
        ("10_full moon/b.png", "full moon", 10),
        ("3_sun/a.png", "sun", 3),
        ("4_/c.png", "where no name is", 4),
    ]
    assert dataset.num_images_with_repeats == 27
    assert problems(dataset) == [
        ("caption_missing", "10_full moon/b.png"),
        ("caption_missing", "3_sun/a.png"),
        ("caption_missing", "4_/c.png"),
        ("duplicate", "3_sun/a.png"),
    ]


def test_images_beside_sub_folders_are_used_as_well_and_it_is_said(tmp_path) -> None:
    put(tmp_path, {"x.png": "beside"})
    put(tmp_path / "2_moon", {"y.png": "inside"})
    dataset = scan_folder(tmp_path, repeats=5)
    assert named(dataset) == [("x.png", "beside", 5), ("2_moon/y.png", "inside", 2)]
    (problem,) = dataset.problems
    assert problem.kind == "mixed_folder"
    assert "2_moon" in problem.detail and "1 image lies" in problem.detail


@pytest.mark.parametrize("name", ["extra", "0_moon", "moon_10", "10"])
def test_a_sub_folder_without_repeats_in_its_name_is_not_read_and_it_is_said(tmp_path, name) -> None:
    put(tmp_path, {"x.png": "one"})
    put(tmp_path / name, {"y.png": "two"})
    dataset = scan_folder(tmp_path)
    assert [s.caption for s in dataset.samples] == ["one"]
    assert problems(dataset) == [("folder_ignored", name)]


def test_folders_deeper_down_are_not_read_and_it_is_said(tmp_path) -> None:
    put(tmp_path / "2_moon", {"y.png": "two"})
    put(tmp_path / "2_moon" / "3_deep", {"z.png": "three"})
    assert problems(scan_folder(tmp_path)) == [("folder_ignored", "2_moon/3_deep")]


CAPTIONS = [
    (b"a moon", "a moon", None),
    (b"  a moon \t\r\nsecond line", "a moon", None),
    ("\ufeffa moon".encode(), "a moon", None),
    ("mjesec nad šumom".encode(), "mjesec nad šumom", None),
    ("café moon".encode("cp1252"), "café moon", "caption_encoding"),
    (b"moon \x81", "moon \x81", "caption_encoding"),
    ("a moon\r\nx".encode("utf-16"), "a moon", "caption_encoding"),
    (b"", "", "caption_empty"),
    (b"\nsecond line", "", "caption_empty"),
]


@pytest.mark.parametrize(("written", "caption", "problem"), CAPTIONS)
def test_a_caption_is_the_first_line_in_whatever_encoding(tmp_path, written, caption, problem) -> None:
    dataset = scan_folder(put(tmp_path, {"a.png": written}), default_caption="unused")
    assert dataset.samples[0].caption == caption
    assert [p.kind for p in dataset.problems] == ([problem] if problem else [])


def test_a_missing_caption_becomes_the_default_one_and_is_reported(tmp_path) -> None:
    dataset = scan_folder(put(tmp_path, {"a.png": None}), default_caption="moon")
    assert dataset.samples[0].caption == "moon"
    (problem,) = dataset.problems_of("caption_missing")
    assert "a.txt" in problem.detail and "'moon'" in problem.detail


def test_captions_may_have_another_extension(tmp_path) -> None:
    put(tmp_path, {"a.v2.png": "old"})
    (tmp_path / "a.v2.caption").write_text("new")
    dataset = scan_folder(tmp_path, caption_extension=".caption")
    assert dataset.samples[0].caption == "new"
    assert problems(dataset) == [("not_an_image", "a.v2.txt")]


def test_other_files_are_listed_and_hidden_ones_and_caches_are_not(tmp_path) -> None:
    put(tmp_path, {"a.png": "moon"})
    for name in ("notes.pdf", "lost.txt", ".hidden", "a.npz", "Thumbs.db"):
        (tmp_path / name).write_text("x")
    assert problems(scan_folder(tmp_path)) == [("caption_orphan", "lost.txt"), ("not_an_image", "notes.pdf")]


def broken_files(folder: Path) -> None:
    (folder / "empty.png").write_bytes(b"")
    (folder / "note.jpg").write_text("not a photograph")
    cut = put_image(folder / "cut.jpg", (200, 200))
    cut.write_bytes(cut.read_bytes()[:5000])


def test_broken_files_are_listed_with_a_reason_and_skipped(tmp_path) -> None:
    broken_files(put(tmp_path, {"good.png": "moon"}))
    dataset = scan_folder(tmp_path)
    assert [s.caption for s in dataset.samples] == ["moon"]
    reasons = {p.path: p.detail for p in dataset.problems_of("broken")}
    assert reasons.keys() == {"empty.png", "note.jpg", "cut.jpg"}
    assert "0 bytes" in reasons["empty.png"] and "not an image" in reasons["note.jpg"]
    assert "truncated" in reasons["cut.jpg"]


def test_a_file_mended_or_broken_since_the_last_scan_is_seen(tmp_path) -> None:
    put(tmp_path, {"a.png": "moon", "b.png": "moon"})
    good, before = (tmp_path / "a.png").read_bytes(), scan_folder(tmp_path)
    stat = (tmp_path / "a.png").stat()
    (tmp_path / "a.png").write_bytes(good[:-40] + bytes(40))
    os.utime(tmp_path / "a.png", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert problems(scan_folder(tmp_path)) == [("broken", "a.png")]
    (tmp_path / "a.png").write_bytes(good)
    assert scan_folder(tmp_path) == before


def test_an_unchanged_image_is_decoded_once(tmp_path, monkeypatch) -> None:
    put(tmp_path, {"once.png": "moon"})
    first = scan_folder(tmp_path)

    def refuse(path: str) -> None:
        raise AssertionError(f"{path} was decoded again")

    monkeypatch.setattr(dataset_module, "load_rgb", refuse)
    assert scan_folder(tmp_path) == first


def test_animations_and_copies_are_used_and_reported(tmp_path) -> None:
    put(tmp_path, {"a.png": "moon"})
    shutil.copy(tmp_path / "a.png", tmp_path / "copy.png")
    frames = [Image.new("RGB", (8, 8), (i * 80, 0, 0)) for i in range(3)]
    frames[0].save(tmp_path / "m.gif", save_all=True, append_images=frames[1:])
    dataset = scan_folder(tmp_path)
    assert dataset.num_images == 3
    assert "the first of 3 frames" in dataset.problems_of("animated")[0].detail
    assert [(p.path, p.detail) for p in dataset.problems_of("duplicate")] == [("copy.png", "the same file as a.png")]


def test_the_size_is_the_one_after_exif_rotation(tmp_path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    put_image(tmp_path / "a.jpg", (24, 16), exif=exif)
    sample = scan_folder(tmp_path).samples[0]
    assert (sample.width, sample.height) == (16, 24)


needs_links = pytest.mark.skipif(os.name == "nt", reason="Windows asks for a privilege to make links")


@needs_links
def test_links_out_of_the_folder_are_not_followed(tmp_path) -> None:
    inside, outside = tmp_path / "data", tmp_path / "private"
    put(inside, {"a.png": "moon", "b.png": None})
    put(outside, {"secret.png": "secret"})
    put(outside / "5_more", {"m.png": "more"})
    (inside / "link.png").symlink_to(outside / "secret.png")
    (inside / "5_more").symlink_to(outside / "5_more")
    (inside / "b.txt").symlink_to(outside / "secret.txt")
    (inside / "gone.png").symlink_to(inside / "nowhere.png")
    (inside / "alias.png").symlink_to(inside / "a.png")
    dataset = scan_folder(inside)
    assert named(dataset) == [("a.png", "moon", 1), ("alias.png", "", 1), ("b.png", "", 1)]
    assert "secret" not in str(dataset)
    assert [p.path for p in dataset.problems_of("outside")] == ["5_more", "b.txt", "link.png"]
    assert [p.path for p in dataset.problems_of("broken")] == ["gone.png"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_with_an_image_name_does_not_hang(tmp_path) -> None:
    put(tmp_path, {"a.png": "moon"})
    os.mkfifo(tmp_path / "pipe.png")
    assert problems(scan_folder(tmp_path)) == [("broken", "pipe.png")]


def make_file(path: Path) -> Path:
    path.write_text("x")
    return path


def make_broken(path: Path) -> Path:
    path.mkdir()
    broken_files(path)
    return path


def make_empty(path: Path) -> Path:
    path.mkdir()
    return path


def make_nested(*names: str) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        for name in names:
            put(path / name, {"a.png": None})
        return path

    return make


REFUSED: list[tuple[Callable[[Path], Path], str]] = [
    (lambda path: path, "There is no folder"),
    (lambda path: Path("  "), "No folder is given"),
    (make_file, "is a file"),
    (make_empty, "holds no images"),
    (make_broken, "None of the 3 images .* the first is 'cut.jpg': it is truncated"),
    (
        make_nested("train"),
        "its sub-folder 'train' is not read: .* name it 10_train to have it read, or choose that folder",
    ),
    (
        make_nested("0_moon"),
        "its sub-folder '0_moon' is not read: .* name it 10_moon to have it read, or choose that folder",
    ),
    (make_nested("3D renders"), "name it 10_3D renders to have it read"),
    (make_nested("2024"), "name it 10_2024 to have it read"),
    (make_nested("a", "b", "c"), "its sub-folder 'a' and 2 more are not read"),
    (make_nested("20240501_moon"), "asks for 20240501 repeats, and at most 10000 are taken; rename it, or choose"),
    (make_nested("10_moon/inner"), "its sub-folder '10_moon/inner' is not read: .* move it there, or choose"),
    (make_nested("deep/inner"), "holds no images; put"),
]


@pytest.mark.parametrize(("make", "says"), REFUSED)
def test_a_folder_that_gives_nothing_is_refused_in_one_sentence(tmp_path, make, says) -> None:
    folder = make(tmp_path / "here")
    with pytest.raises(DatasetError, match=says) as caught:
        scan_folder(folder)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


@pytest.mark.parametrize("option", [{"caption_extension": "../x"}, {"caption_extension": "txt"}, {"repeats": 0}])
def test_options_that_cannot_work_are_refused(tmp_path, option) -> None:
    with pytest.raises(DatasetError, match="must"):
        scan_folder(put(tmp_path, {"a.png": "moon"}), **option)


def test_progress_counts_every_file_and_can_cancel(tmp_path) -> None:
    put(tmp_path, {f"{i}.png": "moon" for i in range(5)})
    seen: list[tuple[int, int]] = []
    scan_folder(tmp_path, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i, 5) for i in range(1, 6)]

    def cancel(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scan_folder(tmp_path, on_progress=cancel)


def test_the_hash_is_the_same_wherever_the_folder_lies(tmp_path) -> None:
    put(tmp_path / "one", {"a.png": "moon", "b.png": "sun"})
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    assert scan_folder(tmp_path / "one").content_hash == scan_folder(tmp_path / "two").content_hash


CHANGES: dict[str, Callable[[Path], object]] = {
    "caption": lambda folder: (folder / "a.txt").write_text("moons"),
    "pixels": lambda folder: put_image(folder / "a.png", seed=99),
    "order": lambda folder: (folder / "a.png").rename(folder / "z.png"),
    "one more": lambda folder: put(folder, {"c.png": "c"}),
    "one less": lambda folder: (folder / "b.png").unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_hash_changes_with_the_content(tmp_path, change) -> None:
    put(tmp_path, {"a.png": "moon", "b.png": "moon"})
    before = scan_folder(tmp_path).content_hash
    CHANGES[change](tmp_path)
    assert scan_folder(tmp_path).content_hash != before


def test_the_hash_changes_with_the_repeats(tmp_path) -> None:
    put(tmp_path, {"a.png": "moon"})
    assert scan_folder(tmp_path).content_hash != scan_folder(tmp_path, repeats=2).content_hash


def test_a_split_is_seeded_complete_and_without_copies_on_both_sides(tmp_path) -> None:
    put(tmp_path, {f"{i}.png": f"moon {i}" for i in range(8)})
    shutil.copy(tmp_path / "0.png", tmp_path / "copy.png")
    dataset = scan_folder(tmp_path)
    splits = [dataset.split(3, seed) for seed in range(10)]
    for training, validation in splits:
        assert validation.num_images == 3
        assert not {s.content_hash for s in training.samples} & {s.content_hash for s in validation.samples}
        assert {s.content_hash for s in training.samples + validation.samples} == {
            s.content_hash for s in dataset.samples
        }
    assert dataset.split(3, 4) == splits[4]
    assert len({validation.content_hash for _, validation in splits}) > 1
    assert dataset.split(0, 0)[0].samples == dataset.samples


@pytest.mark.parametrize("count", [-1, 2, 5])
def test_a_split_that_leaves_nothing_to_train_on_is_refused(tmp_path, count) -> None:
    put(tmp_path, {"a.png": "moon", "b.png": "moon"})
    with pytest.raises(DatasetError, match=f"{count} images cannot be held out of 2"):
        scan_folder(tmp_path).split(count, 0)


def test_the_report_names_what_a_user_must_know(tmp_path) -> None:
    put_image(tmp_path / "wide.png", (192, 128)).with_suffix(".txt").write_text("short")
    put_image(tmp_path / "crop.png", (100, 64)).with_suffix(".txt").write_text(" ".join(["long"] * 80))
    put_image(tmp_path / "tiny.png", (20, 20))
    broken_files(tmp_path)
    dataset = scan_folder(tmp_path, repeats=2)
    report = dataset_report(dataset, lambda caption: len(caption.split()), BucketSettings(resolution=(192, 128)))
    for line in (
        "Images: 3 (6 with repeats)",
        "  64x64: 4",
        "  192x128: 2",
        f"Pixels lost to cropping: {100 * (100 - 64) * 64 / (192 * 128 + 100 * 64 + 64 * 64):.1f} %",
        "Images enlarged: 1",
        "  tiny.png: 20x20 → 64x64",
        "Captions over 75 tokens: 1",
        "  crop.png: 80 tokens, of which 75 are seen",
        "Captions missing: 1",
        "Broken files, skipped: 3",
        "  empty.png: it is empty (0 bytes)",
    ):
        assert line in report.splitlines()


def test_the_report_names_at_most_twenty_files_of_a_kind(tmp_path) -> None:
    put(tmp_path, {f"{i:02d}.png": None for i in range(26)})
    report = dataset_report(scan_folder(tmp_path)).splitlines()
    assert "Captions missing: 26" in report
    assert "  … and 6 more" in report
    assert sum(line.startswith("  ") for line in report) == 21


def test_the_report_says_nothing_of_what_was_not_asked_or_is_not_wrong(tmp_path) -> None:
    report = dataset_report(scan_folder(put(tmp_path, {"a.png": "moon"})))
    assert report.splitlines() == [f"Folder: {os.path.realpath(tmp_path)}", "Images: 1 (1 with repeats)"]


@pytest.mark.skipif(os.name != "posix" or os.uname().sysname == "Darwin", reason="names are always text here")
def test_names_that_are_no_text_do_not_spoil_the_report(tmp_path) -> None:
    put(tmp_path, {"a.png": None})
    os.rename(os.fsencode(tmp_path / "a.png"), os.fsencode(tmp_path) + b"/a\xff.png")
    dataset = scan_folder(tmp_path)
    dataset_report(dataset, None, BucketSettings()).encode()
    assert dataset.problems[0].path == "a?.png"
    assert len(dataset.content_hash) == 64


def test_a_folder_named_by_a_date_is_not_seen_twenty_million_times(tmp_path) -> None:
    for name in ("20240501_moon", "2_moon"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (64, 64)).save(tmp_path / name / "a.png")
    dataset = scan_folder(tmp_path)
    assert dataset.num_images_with_repeats == 2
    (problem,) = [problem for problem in dataset.problems if problem.kind == "folder_ignored"]
    assert "20240501 repeats, and at most 10000" in problem.detail
    with pytest.raises(DatasetError, match="from 1 to 10000"):
        scan_folder(tmp_path, repeats=10_001)
