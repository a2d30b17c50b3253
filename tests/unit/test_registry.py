"""The runs that routes tell of: those of this process as they happen, those of earlier ones from their logs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from pack.trainer.control import Control
from pack.trainer.registry import LiveRun, Runs
from pack.trainer.run_log import RunLog

IDS = ("a" * 32, "b" * 32)


def log_of(folder: Path, run: str, steps: int, began: float, *listeners: Any) -> RunLog:
    log = RunLog(folder / run / "log.jsonl", *listeners)
    log.open(0)
    log.write("begin", 0, id=run, name=f"moon {run[0]}", steps=100, steps_per_epoch=10, time=began, node_id="5")
    for step in range(1, steps + 1):
        log.write("step", step, loss=1 / step, smoothed_loss=0.5, lr={"unet": 1e-4}, seconds_per_step=2.0)
    return log


@pytest.fixture
def sent() -> list[dict[str, Any]]:
    return []


@pytest.fixture
def live(sent: list[dict[str, Any]]) -> LiveRun:
    return LiveRun(Control(), sent.append, lambda: 123.0)


def test_runs_of_earlier_processes_come_from_their_logs_the_newest_first(tmp_path: Path) -> None:
    for number, run in enumerate(IDS):
        log_of(tmp_path, run, 3, float(number)).close()
    (tmp_path / "no run").mkdir()
    (tmp_path / "no run" / "log.jsonl").write_text("{}")
    runs = Runs(lambda: tmp_path)
    assert [(status.id, status.state, status.step) for status in runs.all()] == [
        (IDS[1], "stopped", 3),
        (IDS[0], "stopped", 3),
    ]
    assert [point["step"] for point in runs.curve(IDS[0], 1)["points"]] == [2, 3]


def test_a_folder_that_is_deleted_while_runs_are_listed_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, run in enumerate(IDS):
        log_of(tmp_path, run, 3, float(number)).close()
    gone, glob = tmp_path / IDS[0], Path.glob

    def listed(folder: Path, pattern: str) -> list[Path]:
        found = list(glob(folder, pattern))
        shutil.rmtree(gone)
        return found

    monkeypatch.setattr(Path, "glob", listed)
    assert [status.id for status in Runs(lambda: tmp_path).all()] == [IDS[1]]


def test_a_live_run_goes_before_its_log(tmp_path: Path, live: LiveRun) -> None:
    runs = Runs(lambda: tmp_path)
    runs.begin(live)
    log = log_of(tmp_path, IDS[0], 3, 0.0, live.hear)
    assert runs.live(IDS[0]) is live
    assert [(s.id, s.state) for s in runs.all()] == [(IDS[0], "training")]
    log.end("finished", "Saved moon.safetensors.")
    assert (runs.status(IDS[0]).state, runs.status(IDS[0]).message) == ("finished", "Saved moon.safetensors.")


@pytest.mark.parametrize("name", ["../" + "a" * 29, "a" * 31, "A" * 32, "..", ""])
def test_only_the_ids_of_runs_are_looked_for_on_disk(name: str, tmp_path: Path) -> None:
    runs = Runs(lambda: tmp_path / "runs")
    log_of(tmp_path, "runs/" + "a" * 31, 1, 0.0).close()
    assert runs.status(name) is None
    assert runs.curve(name, 0) == {"points": [], "samples": []}


def test_a_watcher_is_told_at_most_four_times_a_second_and_misses_no_point(
    tmp_path: Path, live: LiveRun, sent: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("pack.trainer.registry.time.monotonic", lambda: now[0])
    log = log_of(tmp_path, IDS[0], 0, 0.0, live.hear)
    for step in range(1, 101):
        now[0] += 0.01
        log.write("step", step, loss=1.0, smoothed_loss=1.0, lr={}, seconds_per_step=0.01)
    log.end("finished", "Saved.")
    assert 4 <= len(sent) <= 4 + 2
    assert [point["step"] for message in sent for point in message["points"]] == list(range(1, 101))
    assert (sent[-1]["state"], sent[-1]["memory_mb"]) == ("finished", 123.0)


def test_a_stage_is_told_and_not_repeated(live: LiveRun, sent: list[dict[str, Any]]) -> None:
    live.hear({"event": "preparing", "step": 0, "id": IDS[0], "name": "moon"})
    before = len(sent)
    for _ in range(3):
        live.stage("encoding images", 4, 4)
    assert [message["stage"] for message in sent[before:]] == ["encoding images: 4/4"]


def test_a_held_out_loss_completes_the_point_of_its_step(
    tmp_path: Path, live: LiveRun, sent: list[dict[str, Any]]
) -> None:
    log = log_of(tmp_path, IDS[0], 2, 0.0, live.hear)
    log.write("validation", 2, loss=0.25)
    log.end("finished", "Saved.")
    last = [point for message in sent for point in message["points"] if point["step"] == 2][-1]
    assert (last["validation"], last["loss"]) == (0.25, 0.5)
