"""The log on disk: what a run was can be read from it after a crash, a restart and a resumption."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
from pack.trainer.runs.log import Record, RunLog, read_ends, read_records
from pack.trainer.runs.run import train
from pack.trainer.runs.status import killed, points_of, samples_of, status_of
from pack.trainer.training.loop import Step
from tensorboard.summary.writer.record_writer import RecordWriter
from tiny_parts import Log, Stop, make_job, make_settings

SETTINGS = make_settings(steps=5, train="unet", save_every_epochs=1)


def log_path(root: Path) -> Path:
    (path,) = (root / "work" / "runs").glob("*/log.jsonl")
    return path


def curve(path: Path) -> list[tuple[int, float, float]]:
    return [(r["step"], r["loss"], r["smoothed_loss"]) for r in read_records(path) if r["event"] == "step"]


def write_steps(path: Path, steps: range, **values: object) -> RunLog:
    log = RunLog(path)
    log.open(steps.start - 1)
    log.write("begin", steps.start - 1, id="abc", name="moon", steps=100, steps_per_epoch=10, time=1.0)
    for step in steps:
        log.write("step", step, loss=1 / step, smoothed_loss=0.5, lr={"unet": 1e-4}, seconds_per_step=2.0, **values)
    return log


def test_every_step_is_logged_with_what_it_was(tmp_path: Path) -> None:
    result = train(make_job(tmp_path, SETTINGS))
    records = read_records(log_path(tmp_path))
    steps = [record for record in records if record["event"] == "step"]
    assert [record["loss"] for record in steps] == list(result.losses)
    assert all(record["lr"] == {"unet": 1e-3} and record["taken"] for record in steps)
    assert [r["file"] for r in records if r["event"] == "saved"] == ["mjesec-000001.safetensors", "mjesec.safetensors"]
    status = status_of(records)
    assert (status.state, status.step, status.steps, status.name) == ("finished", 5, 5, "mjesec")
    assert (status.file, status.message) == ("mjesec.safetensors", "Saved mjesec.safetensors.")
    assert status.as_dict()["epochs"] == 2


def test_a_resumed_run_has_the_log_of_the_straight_one(tmp_path: Path) -> None:
    train(make_job(tmp_path / "straight", SETTINGS))
    with pytest.raises(Stop):
        train(make_job(tmp_path / "stopped", SETTINGS, Log(stop_after=2)))
    path = log_path(tmp_path / "stopped")
    # what a process that was killed logged after its last saved state
    with path.open("a") as file:
        file.write('{"event": "step", "step": 3, "loss": 9.0, "smoothed_loss": 9.0, "lr": {}}\n{"event": "st')
    train(make_job(tmp_path / "stopped", SETTINGS))
    assert curve(path) == curve(log_path(tmp_path / "straight"))


def test_a_run_that_starts_anew_starts_its_log_anew(tmp_path: Path) -> None:
    write_steps(tmp_path / "log.jsonl", range(1, 4)).close()
    write_steps(tmp_path / "log.jsonl", range(1, 2)).close()
    assert [step for step, _, _ in curve(tmp_path / "log.jsonl")] == [1]


@pytest.mark.skipif(os.name == "nt", reason="nobody deletes there what is open")
def test_a_folder_that_is_deleted_in_mid_run_costs_no_record(tmp_path: Path) -> None:
    train(make_job(tmp_path / "straight", SETTINGS))

    class Deleting(Log):
        def step(self, step: Step) -> None:
            super().step(step)
            if step.step == 3:
                shutil.rmtree(log_path(tmp_path / "deleted").parent)

    train(make_job(tmp_path / "deleted", SETTINGS, Deleting()))
    told, whole = (read_records(log_path(tmp_path / name)) for name in ("deleted", "straight"))
    assert [(record["event"], record["step"]) for record in told] == [(r["event"], r["step"]) for r in whole]
    assert curve(log_path(tmp_path / "deleted")) == curve(log_path(tmp_path / "straight"))


def test_a_folder_that_is_deleted_while_nothing_can_be_written_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "run" / "log.jsonl"
    log = write_steps(path, range(1, 3))
    log._let_go()  # as after an error of the disk
    shutil.rmtree(path.parent)
    log.write("step", 3, loss=1.0, smoothed_loss=0.5)
    log.close()
    assert [step for step, _, _ in curve(path)] == [3]


def test_every_line_is_json_that_a_browser_reads(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = RunLog(path)
    log.open(0)
    log.write("step", 1, loss=float("inf"), lr={"unet": float("nan")}, of=[float("-inf"), 2])
    log.close()

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    (line,) = path.read_text().splitlines()
    assert json.loads(line, parse_constant=refuse) == {
        "event": "step", "step": 1, "loss": None, "lr": {"unet": None}, "of": [None, 2]
    }  # fmt: skip


def test_the_ends_of_a_long_log_say_how_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    write_steps(path, range(1, 2001)).close()
    ends = read_ends(path)
    assert len(ends) < 200
    assert status_of(ends) == status_of(read_records(path))
    assert (status_of(ends).name, status_of(ends).step) == ("moon", 2000)


def test_a_short_log_is_not_read_twice(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    write_steps(path, range(1, 4)).close()
    assert read_ends(path) == read_records(path)


def test_a_run_that_nobody_ended_was_killed(tmp_path: Path) -> None:
    write_steps(tmp_path / "log.jsonl", range(1, 4)).close()
    status = status_of(read_records(tmp_path / "log.jsonl"))
    assert status.state == "training"
    assert status.as_dict()["eta"] == (100 - 3) * 2.0
    assert killed(status).state == "stopped"
    assert "queue it again" in killed(status).message


def test_points_are_thinned_but_begin_end_and_validation_stay(tmp_path: Path) -> None:
    log = write_steps(tmp_path / "log.jsonl", range(1, 5001))
    log.write("validation", 4321, loss=0.25)
    log.close()
    points = points_of(read_records(tmp_path / "log.jsonl"), since=1000, most=100)
    assert len(points) <= 100
    assert (points[0]["step"], points[-1]["step"]) == (1001, 5000)
    assert [p for p in points if p["validation"] is not None] == [
        {"step": 4321, "loss": 1 / 4321, "smoothed": 0.5, "lr": {"unet": 1e-4}, "validation": 0.25}
    ]


def test_samples_are_listed_with_their_steps() -> None:
    file = {"filename": "a.png", "subfolder": "mjesec/samples/moon", "type": "output"}
    records = [{"event": "sample", "step": step, "files": [file]} for step in (10, 20)]
    assert samples_of(records, since=10) == [{"step": 20, **file}]


def test_no_log_is_no_run(tmp_path: Path) -> None:
    assert read_records(tmp_path / "none.jsonl") == read_ends(tmp_path / "none.jsonl") == []
    assert status_of([]) is None


def test_a_log_that_cannot_be_written_any_more_does_not_end_the_run(tmp_path: Path) -> None:
    log = write_steps(tmp_path / "log.jsonl", range(1, 2))
    heard: list[int] = []
    log.listeners.append(lambda record: heard.append(record["step"]))
    log._file.close()
    log._file = open("/dev/full", "w") if Path("/dev/full").exists() else log._file  # noqa: SIM115
    log.write("step", 2, loss=1.0)
    log.write("step", 3, loss=1.0)
    assert heard == [2, 3]


def test_a_listener_whose_disk_is_full_does_not_end_the_run(tmp_path: Path) -> None:
    log, heard = RunLog(tmp_path / "log.jsonl"), []

    def full(record: Record) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    log.listeners += [full, lambda record: heard.append(record["step"])]
    log.write("step", 1, loss=1.0)
    assert heard == [1]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_tensorboard_files_on_a_full_disk_end_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(self: object, *arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(RecordWriter, "write", write)
    log = Log()
    result = train(make_job(tmp_path, SETTINGS, log))
    assert result.path.is_file()
    assert len([line for line in log.lines if line.startswith("No more TensorBoard files: ")]) == 1
    assert not any(line.startswith("TensorBoard files:") for line in log.lines)


def test_a_folder_that_cannot_be_made_costs_the_tensorboard_files_alone(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "tensorboard").write_text("in the way")
    log = Log()
    assert train(make_job(tmp_path, SETTINGS, log)).path.is_file()
    assert any(line.startswith("No more TensorBoard files: ") for line in log.lines)
