"""A disk without room for a run's state or files: what is lost is told, and nothing else is lost."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_parts
from pack.trainer.errors import LoraFileError
from pack.trainer.lora.file import read_lora
from pack.trainer.runs.log import read_records
from pack.trainer.runs.run import Result, train
from pack.trainer.runs.session import Session
from pack.trainer.settings.run_options import SavingSettings
from tiny_parts import Drawing, Log, Stop, make_job, make_settings

SETTINGS = make_settings(steps=6, train="unet", saving=SavingSettings(state_steps=2))
STATE = "state.safetensors"
Disk = dict[str, object]


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """``full``: endings of names for which there is no room. ``written``: names of the files that had it, in order."""
    held: Disk = {"full": (), "written": []}

    def watched(call: Callable[[Path, Path], None]) -> Callable[[Path, Path], None]:
        def instead(source: Path, target: Path) -> None:
            if str(target).endswith(held["full"]):
                raise OSError(errno.ENOSPC, "No space left on device")
            call(source, target)
            held["written"].append(Path(target).name)

        return instead

    for name in ("replace", "link"):
        monkeypatch.setattr(os, name, watched(getattr(os, name)))
    return held


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return train(make_job(tmp_path_factory.mktemp("straight"), SETTINGS))


class At(Log):
    """Does something once a step is finished."""

    def __init__(self, step: int, what: object, stop_after: int | None = None) -> None:
        super().__init__(stop_after)
        self.at, self.what = step, what

    def step(self, step: object) -> None:
        if step.step == self.at:
            self.what()
        super().step(step)


def folder_of(root: Path) -> Path:
    (folder,) = (root / "work" / "runs").iterdir()
    return folder


def test_a_state_that_does_not_fit_is_told_once_and_the_training_goes_on(
    tmp_path: Path, disk: Disk, straight: Result
) -> None:
    disk["full"] = (STATE,)
    result = train(make_job(tmp_path, SETTINGS))
    assert [line for line in result.report.splitlines() if "could not be saved" in line] == [
        f"The state as of step 2 could not be saved to '{folder_of(tmp_path)}' (No space left on device); make room "
        "there: as it is, the run would begin anew if it were queued again."
    ]
    tiny_parts.assert_same(read_lora(result.path), read_lora(straight.path))


def test_a_state_that_did_not_fit_is_tried_again_when_the_next_is_due(tmp_path: Path, disk: Disk) -> None:
    disk["full"], found = (STATE,), []

    class Looking(Log):
        def step(self, step: object) -> None:
            found.append(disk["written"].count(STATE))
            disk["full"] = () if step.step == 3 else disk["full"]

    train(make_job(tmp_path, SETTINGS, Looking()))
    assert found == [0, 0, 0, 1, 1, 2]


def test_whoever_cancels_is_told_that_the_state_could_not_be_kept_and_from_where_the_run_goes_on(
    tmp_path: Path, disk: Disk
) -> None:
    log = At(2, lambda: disk.update(full=(STATE,)), stop_after=3)
    with pytest.raises(Stop):
        train(make_job(tmp_path, SETTINGS, log))
    told = log.lines[-1]
    assert told.startswith("The state as of step 3 could not be saved to ")
    assert told.endswith("the run would go on from step 2 if it were queued again.")
    assert read_records(folder_of(tmp_path) / "log.jsonl")[-1]["message"] == f"Interrupted. {told}"
    disk["full"] = ()
    resumed = Log()
    train(make_job(tmp_path, SETTINGS, resumed))
    assert resumed.steps[0].step == 3


def test_who_stops_a_run_gets_the_lora_although_the_state_does_not_fit(tmp_path: Path, disk: Disk) -> None:
    job = make_job(tmp_path, make_settings(steps=6, train="unet"))
    job.watcher = At(3, job.control.stop)
    disk["full"] = (STATE,)
    result = train(job)
    assert (result.stopped, result.path.name, result.path.exists()) == (True, "mjesec-step00000003.safetensors", True)
    assert "The state as of step 3 could not be saved" in result.report
    assert "Stopped at step 3 of 6 as asked; queue again to begin anew." in result.report


def test_who_stops_a_run_gets_the_lora_before_the_state(tmp_path: Path, disk: Disk) -> None:
    job = make_job(tmp_path, make_settings(steps=6, train="unet"))
    job.watcher = At(3, job.control.stop)
    train(job)
    assert [name for name in disk["written"] if name in (STATE, "mjesec-step00000003.safetensors")] == [
        "mjesec-step00000003.safetensors",
        STATE,
    ]


def test_a_lora_that_has_no_room_when_a_run_is_stopped_leaves_the_state(tmp_path: Path, disk: Disk) -> None:
    job = make_job(tmp_path, make_settings(steps=6, train="unet"))
    job.watcher = At(3, job.control.stop)
    disk["full"] = ("-step00000003.safetensors",)
    with pytest.raises(LoraFileError, match="'mjesec-step00000003.safetensors' could not be written"):
        train(job)
    assert (folder_of(tmp_path) / STATE).exists()


def test_a_run_that_ends_early_is_finished_although_its_state_does_not_fit(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Session, "_enough", lambda self, trainer, validator: trainer.progress.step == 3)
    disk["full"] = (STATE,)
    result = train(make_job(tmp_path, SETTINGS))
    assert (result.stopped, result.path.name, len(result.losses)) == (False, "mjesec.safetensors", 3)


def test_a_save_that_is_asked_for_and_has_no_room_is_told_and_the_training_goes_on(
    tmp_path: Path, disk: Disk, straight: Result
) -> None:
    job = make_job(tmp_path, SETTINGS)
    job.watcher = At(2, job.control.save)
    disk["full"] = (STATE, "-step00000003.safetensors")
    result = train(job)
    told = "mjesec-step00000003.safetensors could not be saved as asked (No space left on device); training goes on."
    assert told in result.report
    # that of step 2 was due, that of step 3 was asked for
    assert [line[:26] for line in job.lines if line.startswith("The state")] == [
        "The state as of step 2 cou",
        "The state as of step 3 cou",
    ]
    tiny_parts.assert_same(read_lora(result.path), read_lora(straight.path))


def test_a_pause_whose_state_has_no_room_is_told_and_the_training_goes_on(
    tmp_path: Path, disk: Disk, straight: Result
) -> None:
    job = make_job(tmp_path, SETTINGS)
    job.watcher = At(3, job.control.pause)
    disk["full"] = (STATE,)
    result = train(job)
    assert "The run does not pause without a saved state: training goes on." in result.report
    assert not job.control.paused
    tiny_parts.assert_same(read_lora(result.path), read_lora(straight.path))


def test_samples_whose_memory_cannot_be_lent_are_told_and_the_training_goes_on(
    tmp_path: Path, disk: Disk, straight: Result
) -> None:
    job, disk["full"] = make_job(tmp_path, SETTINGS), (STATE,)
    job.sampler = Drawing(3, room=True)
    result = train(job)
    told = [line for line in result.report.splitlines() if "are not drawn" in line]
    assert told == [
        f"The samples of step {step} are not drawn: they need the memory of the networks." for step in (3, 6)
    ]
    assert job.sampler.drawn == {}
    tiny_parts.assert_same(read_lora(result.path), read_lora(straight.path))


def test_a_file_that_is_due_and_has_no_room_still_ends_the_run_with_its_state(tmp_path: Path, disk: Disk) -> None:
    settings = make_settings(steps=6, train="unet", saving=SavingSettings(lora_steps=2))
    disk["full"] = ("-step00000002.safetensors",)
    log = Log()
    with pytest.raises(LoraFileError, match="No space left on device"):
        train(make_job(tmp_path, settings, log))
    assert log.lines[-1] == "Stopped after step 2; queue again to go on from there."


def test_who_has_no_room_for_the_lora_nor_for_the_state_is_told_of_both(tmp_path: Path, disk: Disk) -> None:
    disk["full"] = (".safetensors",)
    with pytest.raises(LoraFileError) as caught:
        train(make_job(tmp_path, make_settings(steps=3, train="unet")))
    assert "'mjesec.safetensors' could not be written" in str(caught.value)
    assert "The state as of step 3 could not be saved" in str(caught.value)
    assert "the run would begin anew if it were queued again" in str(caught.value)
