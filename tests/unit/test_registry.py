"""The runs that routes tell of: those of this process as they happen, those of earlier ones from their logs."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from pack.trainer.runs.control import Control
from pack.trainer.runs.log import RunLog
from pack.trainer.runs.registry import LiveRun, Runs

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


def test_of_many_runs_the_newest_are_listed_and_the_others_counted_and_still_known(tmp_path: Path) -> None:
    ids = [f"{number:032x}" for number in range(203)]
    for number, run in enumerate(ids):
        log_of(tmp_path, run, 1, float(number)).close()
        os.utime(tmp_path / run / "log.jsonl", (number, number))
    runs = Runs(lambda: tmp_path)
    listed, older = runs.all_told()
    assert [run["id"] for run in listed] == ids[:2:-1]
    assert older == 3
    assert (runs.told(ids[0]) or {})["name"] == "moon 0"


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
    monkeypatch.setattr("pack.trainer.runs.registry.time.monotonic", lambda: now[0])
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


def test_samples_are_told_once_with_their_prompts(tmp_path: Path, live: LiveRun, sent: list[dict[str, Any]]) -> None:
    log = log_of(tmp_path, IDS[0], 1, 0.0, live.hear)
    file = {"filename": "step00000001_00.png", "subfolder": "mjesec/samples/moon", "type": "output", "prompt": "moon"}
    log.write("sample", 1, files=[file])
    log.end("finished", "Saved.")
    assert [message["samples"] for message in sent if message["samples"]] == [[{"step": 1, **file}]]
    assert Runs(lambda: tmp_path).curve(IDS[0], 0)["samples"] == [{"step": 1, **file}]


def test_a_run_says_what_may_be_asked_of_it(tmp_path: Path, sent: list[dict[str, Any]]) -> None:
    live = LiveRun(Control(samples=True), sent.append, lambda: None)
    log = log_of(tmp_path, IDS[0], 1, 0.0, live.hear)
    assert live.as_dict()["wishes"] == ["pause", "stop", "save", "sample"]
    # whoever else watches is told at once, although the run takes its time to obey
    live.ask("pause")
    assert (sent[-1]["state"], sent[-1]["wishes"]) == ("training", ["resume", "stop"])
    live.ask("stop")
    assert sent[-1]["wishes"] == []
    log.end("stopped", "Stopped.")
    assert live.as_dict()["wishes"] == []
    with pytest.raises(ValueError, match="has ended"):
        live.ask("resume")


@pytest.mark.parametrize("wish", ["pause", "resume", "stop", "save", "sample"])
@pytest.mark.parametrize("earlier", [(), ("pause",), ("stop",), ("pause", "resume"), ("pause", "stop")])
@pytest.mark.parametrize("samples", [True, False])
def test_exactly_the_wishes_that_are_told_are_granted(samples: bool, earlier: tuple[str, ...], wish: str) -> None:
    control = Control(samples=samples)
    for each in earlier:
        getattr(control, each)()
    granted = wish in control.wishes()
    try:
        getattr(control, wish)()
    except ValueError:
        assert not granted
    else:
        assert granted


def test_a_log_that_somebody_else_wrote_breaks_no_list(tmp_path: Path) -> None:
    log_of(tmp_path, IDS[0], 2, 5.0).close()
    lines = [
        '{"event": "begin", "step": 0, "id": "'
        + IDS[0]
        + '", "name": ["x"], "steps": "many", "time": "noon", "lr": 3}',
        '{"event": "step", "step": 1, "loss": NaN, "smoothed_loss": "low", "lr": {"unet": Infinity}}',
        '{"event": "step", "step": 2}',
        '{"event": "sample", "step": 2, "files": [7, {"filename": 3}, {"filename": "a.png", "type": null}]}',
        '{"event": "sample", "step": 2}',
        '{"event": "validation", "step": 2, "loss": "<b>"}',
    ]
    (tmp_path / IDS[1]).mkdir()
    (tmp_path / IDS[1] / "log.jsonl").write_text("\n".join(lines), "utf-8")
    runs = Runs(lambda: tmp_path)
    told = {run["id"]: run for run in json.loads(json.dumps(runs.all_told()[0], allow_nan=False))}
    assert told.keys() == set(IDS)
    assert (told[IDS[1]]["name"], told[IDS[1]]["step"], told[IDS[1]]["lr"]) == ("", 2, {})
    curve = json.loads(json.dumps(runs.curve(IDS[1], 0), allow_nan=False))
    assert [(point["step"], point["loss"], point["lr"]) for point in curve["points"]] == [(1, None, {}), (2, None, {})]
    assert curve["samples"] == [{"step": 2, "filename": "a.png"}]
