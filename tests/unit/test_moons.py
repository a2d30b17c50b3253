"""Rendered Moons: the same picture for the same seed, lit as its caption says, in a folder that is reused."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pack.trainer.dataset.scan import scan_folder
from pack.trainer.errors import DatasetError, LoraFileError, SettingsError
from pack.trainer.moons import folder as moons
from pack.trainer.moons.folder import render_moon, render_moons

SIZE = 96


def light(size: int, seed: int) -> np.ndarray:
    return np.asarray(render_moon(size, seed)[0].convert("L"), dtype=np.float64) / 255


def test_the_same_seed_gives_the_same_picture_and_another_seed_another() -> None:
    first, again, other = (render_moon(SIZE, seed)[0].tobytes() for seed in (5, 5, 6))
    assert first == again
    assert first != other


@pytest.mark.parametrize("size", [64, 128, 250])
def test_a_picture_has_the_size_asked_for(size) -> None:
    picture, caption = render_moon(size, 1)
    assert (picture.size, picture.mode) == ((size, size), "RGB")
    assert "moon" in caption.split()


def test_the_same_seed_shows_the_same_view_at_every_size() -> None:
    for seed in range(6):
        small = light(64, seed)
        large = light(256, seed).reshape(64, 4, 64, 4).mean((1, 3))
        assert render_moon(64, seed)[1] == render_moon(256, seed)[1]
        assert np.corrcoef(small.ravel(), large.ravel())[0, 1] > 0.95


def test_all_four_phases_occur_and_the_caption_says_how_much_is_lit() -> None:
    lit_share: dict[str, list[float]] = {}
    for seed in range(60):
        lit = light(SIZE, seed) > 0.15
        rows, columns = np.flatnonzero(lit.any(1)), np.flatnonzero(lit.any(0))
        # the longest chord of what is lit is the diameter, whichever way the Moon is turned
        diameter = max(np.ptp(rows), np.ptp(columns)) + 1
        phase = render_moon(SIZE, seed)[1].split()[-2]
        lit_share.setdefault(phase, []).append(lit.sum() / (np.pi / 4 * diameter**2))
    mean = {phase: float(np.mean(shares)) for phase, shares in lit_share.items()}
    assert mean.keys() == {"full", "gibbous", "half", "crescent"}
    assert mean["full"] > 0.9
    assert mean["full"] > mean["gibbous"] > mean["half"] > mean["crescent"]


def test_the_sky_is_dark_and_the_moon_is_bright_and_mostly_fills_the_frame() -> None:
    filled = []
    for seed in range(40):
        values = light(SIZE, seed)
        assert np.percentile(values, 5) < 0.15
        assert np.percentile(values, 99.5) > 0.3
        if "full" in render_moon(SIZE, seed)[1]:
            filled.append(np.sqrt((values > 0.2).sum() * 4 / np.pi) / SIZE)
    assert 0.5 < np.median(filled) < 0.96


def test_a_full_moon_has_dark_seas_and_bright_highlands() -> None:
    seeds = [seed for seed in range(40) if "full" in render_moon(SIZE, seed)[1]]
    for seed in seeds:
        values = light(SIZE, seed)
        disc = values[values > 0.25]
        assert np.percentile(disc, 85) / np.percentile(disc, 15) > 1.15


@pytest.mark.parametrize("arguments", [(32, 0), (4096, 0), (0, 0), (128, -1)])
def test_impossible_numbers_are_refused(arguments) -> None:
    with pytest.raises(SettingsError, match="must"):
        render_moon(*arguments)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def times_of(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_a_folder_of_moons_is_a_dataset_without_problems(tmp_path) -> None:
    render_moons(tmp_path / "new" / "moons", 5, 64, 3)
    dataset = scan_folder(tmp_path / "new" / "moons")
    assert [dataset.name_of(s) for s in dataset.samples] == [f"moon_{i:04d}.png" for i in range(5)]
    assert [s.caption for s in dataset.samples] == [render_moon(64, 3 + i)[1] for i in range(5)]
    assert dataset.problems == ()


def test_two_folders_of_the_same_moons_are_equal_byte_by_byte(tmp_path) -> None:
    for name in ("one", "two"):
        render_moons(tmp_path / name, 3, 64, 0)
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "two")


def test_a_finished_folder_is_left_as_it_is(tmp_path) -> None:
    render_moons(tmp_path, 3, 64, 0)
    before, calls = times_of(tmp_path), []
    render_moons(tmp_path, 3, 64, 0, lambda done, total: calls.append(done))
    assert times_of(tmp_path) == before
    assert calls == []


def test_a_folder_that_was_changed_or_is_incomplete_is_made_anew(tmp_path) -> None:
    render_moons(tmp_path, 3, 64, 0)
    good = bytes_of(tmp_path)
    spoils = (
        lambda: (tmp_path / "moon_0001.txt").write_text("a sun"),
        lambda: (tmp_path / "moon_0002.png").unlink(),
        lambda: (tmp_path / "moon_0003.png").write_bytes(b"one too many"),
    )
    for spoil in spoils:
        spoil()
        render_moons(tmp_path, 3, 64, 0)
        assert bytes_of(tmp_path) == good


@pytest.mark.parametrize("other", [(2, 64, 0), (4, 64, 0), (3, 80, 0), (3, 64, 9)])
def test_another_set_replaces_the_earlier_one_and_leaves_nothing_of_it(tmp_path, other) -> None:
    render_moons(tmp_path, 3, 64, 0)
    (tmp_path / "mine.png").write_bytes(b"kept")
    render_moons(tmp_path, *other)
    assert (tmp_path / "mine.png").read_bytes() == b"kept"
    (tmp_path / "mine.png").unlink()
    render_moons(tmp_path / "fresh", *other)
    fresh = bytes_of(tmp_path / "fresh")
    assert {name: data for name, data in fresh.items()} == {
        path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()
    }


def test_somebody_elses_files_are_never_overwritten(tmp_path) -> None:
    (tmp_path / "moon_0000.png").write_bytes(b"a photograph of my own")
    with pytest.raises(DatasetError, match="moon_0000.png"):
        render_moons(tmp_path, 3, 64, 0)
    assert bytes_of(tmp_path) == {"moon_0000.png": b"a photograph of my own"}


def test_cancelled_work_is_taken_up_and_leaves_no_half_files(tmp_path) -> None:
    def cancel(done: int, total: int) -> None:
        assert total == 4
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render_moons(tmp_path / "a", 4, 64, 0, cancel)
    assert not [name for name in bytes_of(tmp_path / "a") if name.endswith(".part")]
    render_moons(tmp_path / "a", 4, 64, 0)
    render_moons(tmp_path / "b", 4, 64, 0)
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")


def stop_at(number: int) -> Callable[[int, int], None]:
    def cancel(done: int, total: int) -> None:
        if done == number:
            raise KeyboardInterrupt

    return cancel


def test_a_set_stays_whole_while_another_process_begins_the_very_same(tmp_path) -> None:
    def begun(done: int, total: int) -> None:
        if done == 3:
            with pytest.raises(KeyboardInterrupt):
                render_moons(tmp_path / "a", 4, 64, 0, stop_at(1))

    render_moons(tmp_path / "a", 4, 64, 0, begun)
    render_moons(tmp_path / "b", 4, 64, 0)
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")


def test_files_of_a_process_that_began_a_moment_earlier_are_of_no_other_origin(tmp_path, monkeypatch) -> None:
    def first(*arguments) -> object:
        monkeypatch.undo()
        with pytest.raises(KeyboardInterrupt):
            render_moons(tmp_path / "a", 4, 64, 0, stop_at(2))
        return render_moon(*arguments)

    monkeypatch.setattr(moons, "render_moon", first)
    render_moons(tmp_path / "a", 4, 64, 0)
    render_moons(tmp_path / "b", 4, 64, 0)
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")


def test_a_full_disk_is_told_with_the_file_and_the_cure(tmp_path, monkeypatch) -> None:
    replace = os.replace

    def full(source: Path, target: Path) -> None:
        if str(target).endswith("moon_0001.png"):
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(LoraFileError, match="'moon_0001.png' could not be written .*No space left.*make room there"):
        render_moons(tmp_path, 3, 64, 0)
    assert sorted(bytes_of(tmp_path)) == [".moons.json", "moon_0000.png", "moon_0000.txt"]


@pytest.mark.parametrize(("count", "size", "seed"), [(0, 64, 0), (10_001, 64, 0), (3, 10, 0), (3, 64, -1)])
def test_impossible_sets_are_refused_before_anything_is_written(tmp_path, count, size, seed) -> None:
    with pytest.raises(SettingsError, match="must"):
        render_moons(tmp_path / "moons", count, size, seed)
    assert not (tmp_path / "moons").exists()
