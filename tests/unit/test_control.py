"""Pause, stop and save: they take effect after the step under way and change nothing of what is learnt."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_parts
from pack.trainer.errors import Cancelled, LoraFileError
from pack.trainer.lora.file import read_lora, read_metadata
from pack.trainer.runs.control import Control
from pack.trainer.runs.job import Job, Result
from pack.trainer.runs.log import read_records
from pack.trainer.runs.run import train
from pack.trainer.runs.status import status_of
from pack.trainer.sdxl.parts import Parts
from pack.trainer.settings.run_options import ValidationSettings
from pack.trainer.training.loop import Step
from tiny_parts import Drawing, Log, Stop, make_job, make_settings

SETTINGS = make_settings(steps=4, train="unet", gradient_accumulation=2, schedule="cosine")


class Asking(Log):
    """Asks for something once a step is finished, and goes on from a pause after ``polls`` looks at it."""

    def __init__(self, at: int, wish: Callable[[], None], control: Control, polls: int = 3) -> None:
        super().__init__()
        self.at, self.wish, self.control, self.polls = at, wish, control, polls

    def step(self, step: Step) -> None:
        super().step(step)
        if step.step == self.at:
            self.wish()

    def stage(self, name: str, done: int, total: int) -> None:
        super().stage(name, done, total)
        if self.stages.count("paused") == self.polls and self.control.paused:
            self.control.resume()


def run_asking(root: Path, at: int, wish: str, **changes: object) -> tuple[Result, Asking, list[Mapping[str, object]]]:
    """A run during which ``wish`` is asked for at step ``at``; also the records that it told."""
    records: list[Mapping[str, object]] = []
    job = make_job(root, SETTINGS)
    log = Asking(at, getattr(job.control, wish), job.control)
    result = train(replace(job, **{"watcher": log, "on_record": records.append, **changes}))
    return result, log, records


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return train(make_job(tmp_path_factory.mktemp("straight"), SETTINGS))


def log_of(root: Path) -> list[Mapping[str, object]]:
    (path,) = (root / "work" / "runs").glob("*/log.jsonl")
    return read_records(path)


def test_a_paused_run_lends_its_memory_and_ends_as_if_it_had_never_paused(tmp_path: Path, straight: Result) -> None:
    held: list[weakref.ref[object]] = []
    alive_during_pause: list[int] = []

    def parts() -> Parts:
        made = tiny_parts.make_parts()
        held.append(weakref.ref(made.unet))
        return made

    def on_record(record: Mapping[str, object]) -> None:
        if record["event"] == "paused":
            alive_during_pause.append(sum(ref() is not None for ref in held))

    result, log, _ = run_asking(tmp_path, 2, "pause", parts=parts, on_record=on_record)
    assert alive_during_pause == [0]
    assert log.stages.count("paused") >= 3
    assert [step.step for step in log.steps] == [1, 2, 3, 4]
    assert result.losses == straight.losses
    tiny_parts.assert_same(read_lora(result.path), read_lora(straight.path))
    assert [r["step"] for r in log_of(tmp_path) if r["event"] in ("paused", "resumed")] == [2, 2]


class AskingEarly(Asking):
    """Asks while images are encoded, once so many of them are."""

    def step(self, step: Step) -> None:
        Log.step(self, step)

    def stage(self, name: str, done: int, total: int) -> None:
        if name == "encoding images" and self.stages.count(name) == self.at - 1:
            self.wish()
        super().stage(name, done, total)


def test_a_stop_while_images_are_encoded_ends_the_run_there(tmp_path: Path, straight: Result) -> None:
    records: list[Mapping[str, object]] = []
    job = make_job(tmp_path, SETTINGS)
    log = AskingEarly(1, job.control.stop, job.control)
    with pytest.raises(Cancelled, match="before the first step"):
        train(replace(job, watcher=log, on_record=records.append))
    assert log.stages == ["encoding images"]
    assert (records[-1]["event"], records[-1]["state"]) == ("end", "stopped")
    assert not (tmp_path / "loras").exists()
    # what was encoded is not encoded again, and the run is what it would have been
    encoded = len(list((tmp_path / "work" / "latents").iterdir()))
    assert encoded == 1
    tiny_parts.assert_same(read_lora(train(make_job(tmp_path, SETTINGS)).path), read_lora(straight.path))


def test_a_pause_while_images_are_encoded_waits_there(tmp_path: Path, straight: Result) -> None:
    records: list[Mapping[str, object]] = []
    job = make_job(tmp_path, SETTINGS)
    log = AskingEarly(2, job.control.pause, job.control)
    result = train(replace(job, watcher=log, on_record=records.append))
    assert log.stages[:6] == ["encoding images"] * 2 + ["paused"] * 3 + ["encoding images"]
    states = [status_of(records[: number + 1]).state for number in range(len(records))]
    assert states[:4] == ["preparing", "paused", "preparing", "training"]
    tiny_parts.assert_same(read_lora(result.path), read_lora(straight.path))


def test_a_stop_while_a_resumed_run_reads_its_latents_saves_what_was_learnt(tmp_path: Path) -> None:
    first = make_job(tmp_path, SETTINGS)
    interrupted = Asking(1, first.control.pause, first.control)
    interrupted.stop_at_stage = "paused"
    with pytest.raises(Stop):
        train(replace(first, watcher=interrupted))
    job = make_job(tmp_path, SETTINGS)
    records: list[Mapping[str, object]] = []
    log = AskingEarly(1, job.control.stop, job.control)
    result = train(replace(job, watcher=log, on_record=records.append))
    assert result.stopped
    # those who draw its curve must not think that it begins anew
    assert {record["step"] for record in records} == {1}
    assert result.path.name == "mjesec-step00000001.safetensors"


def test_an_interrupt_ends_a_pause_and_the_next_run_goes_on(tmp_path: Path, straight: Result) -> None:
    job = make_job(tmp_path, SETTINGS)
    log = Asking(1, job.control.pause, job.control)
    log.stop_at_stage = "paused"
    with pytest.raises(Stop):
        train(replace(job, watcher=log))
    assert log.lines[-1] == "Stopped after step 1; queue again to go on from there."
    assert status_of(log_of(tmp_path)).state == "stopped"
    resumed = train(make_job(tmp_path, SETTINGS))
    assert "Going on from step 1 of 4." in resumed.report
    tiny_parts.assert_same(read_lora(resumed.path), read_lora(straight.path))


def test_stop_saves_the_lora_as_it_is_and_the_next_run_goes_on_to_the_end(tmp_path: Path, straight: Result) -> None:
    stopped, log, records = run_asking(tmp_path, 3, "stop")
    assert stopped.stopped
    assert [step.step for step in log.steps] == [1, 2, 3]
    assert stopped.path.name == "mjesec-step00000003.safetensors"
    assert read_metadata(stopped.path)["ss_steps"] == "3"
    assert "Stopped at step 3 of 4 as asked; queue again to go on from there." in stopped.report
    assert (records[-1]["event"], records[-1]["state"], records[-1]["step"]) == ("end", "stopped", 3)
    again = train(make_job(tmp_path, SETTINGS))
    assert (again.path.name, again.stopped) == ("mjesec.safetensors", False)
    assert "Going on from step 3 of 4." in again.report
    tiny_parts.assert_same(read_lora(again.path), read_lora(straight.path))
    assert stopped.path.exists()


def test_stop_ends_a_pause(tmp_path: Path) -> None:
    job = make_job(tmp_path, SETTINGS)

    class Stopping(Asking):
        def stage(self, name: str, done: int, total: int) -> None:
            if name == "paused" and not self.control.stopping:
                self.control.stop()

    log = Stopping(2, job.control.pause, job.control)
    result = train(replace(job, watcher=log))
    assert result.stopped
    assert result.path.name == "mjesec-step00000002.safetensors"


def test_save_now_writes_the_lora_of_that_step_and_a_state(tmp_path: Path, straight: Result) -> None:
    result, log, _ = run_asking(tmp_path / "saved", 1, "save")
    # asked for when step 1 was finished, so it is the LoRA of step 2
    saved = result.path.with_name("mjesec-step00000002.safetensors")
    assert "Saved mjesec-step00000002.safetensors as of step 2 of 4." in log.lines
    stopped, _, _ = run_asking(tmp_path / "stopped", 2, "stop")
    tiny_parts.assert_same(read_lora(saved), read_lora(stopped.path))
    tiny_parts.assert_same(read_lora(result.path), read_lora(straight.path))
    assert ("saved", 2, saved.name) in [(r["event"], r["step"], r.get("file")) for r in log_of(tmp_path / "saved")]


def test_a_stop_once_images_are_encoded_waits_for_the_first_step(tmp_path: Path) -> None:
    job = make_job(tmp_path, SETTINGS)

    def parts() -> Parts:
        job.control.stop()
        return tiny_parts.make_parts()

    assert train(replace(job, parts=parts)).path.name == "mjesec-step00000001.safetensors"


def test_a_wish_at_the_last_step_comes_too_late_to_matter(tmp_path: Path, straight: Result) -> None:
    result, _, _ = run_asking(tmp_path, 4, "stop")
    assert (result.stopped, result.path.name) == (False, "mjesec.safetensors")
    tiny_parts.assert_same(read_lora(result.path), read_lora(straight.path))


REFUSED = {
    ("pause", "pause"): "is paused",
    ("resume",): "is not paused",
    ("stop", "stop"): "is stopping already",
    ("stop", "pause"): "is stopping already",
    ("pause", "save"): "is paused: resume it, or stop it, which saves the LoRA",
    ("pause", "sample"): "is paused: resume it first",
    ("sample",): "no sample prompts; connect Training Samples",
}


@pytest.mark.parametrize("wishes", REFUSED, ids=" then ".join)
def test_a_wish_that_makes_no_sense_is_refused_in_a_sentence(wishes: tuple[str, ...]) -> None:
    control = Control(samples=len(wishes) > 1)
    for wish in wishes[:-1]:
        getattr(control, wish)()
    with pytest.raises(ValueError, match=REFUSED[wishes]):
        getattr(control, wishes[-1])()


def test_wishes_are_taken_once() -> None:
    control = Control(samples=True)
    control.save()
    control.sample()
    assert [control.take_save(), control.take_save()] == [True, False]
    assert [control.take_sample(), control.take_sample()] == [True, False]


def test_a_pause_ends_when_another_thread_resumes_it() -> None:
    control = Control()
    control.pause()
    resumer = threading.Timer(0.05, control.resume)
    resumer.start()
    control.wait(lambda: None)
    resumer.join()
    assert not control.paused


def test_nothing_of_a_finished_run_is_held_by_its_job(tmp_path: Path) -> None:
    made: list[weakref.ref[object]] = []

    def parts() -> Parts:
        networks = tiny_parts.make_parts()
        made.append(weakref.ref(networks.unet))
        return networks

    job: Job = replace(make_job(tmp_path, replace(SETTINGS, steps=1)), parts=parts)
    result = train(job)
    gc.collect()
    assert result.path.exists()
    assert [ref() for ref in made] == [None]


@pytest.mark.parametrize("room", [False, True], ids=["beside the networks", "in their memory"])
def test_samples_are_drawn_with_the_lora_of_their_step_and_change_nothing(
    room: bool, tmp_path: Path, straight: Result
) -> None:
    sampler = Drawing(2, room=room)
    job = replace(make_job(tmp_path, SETTINGS), sampler=sampler, parts=sampler.parts)
    result = train(job)
    assert list(sampler.drawn) == [2, 4]
    assert sampler.alive == [0 if room else 1] * 2
    # also where the networks were made anew after the last step
    assert "s a step is the floor" in result.report
    tiny_parts.assert_same(sampler.drawn[4], read_lora(result.path))
    tiny_parts.assert_same(read_lora(result.path), read_lora(straight.path))
    assert [r["step"] for r in log_of(tmp_path) if r["event"] == "sample"] == [2, 4]


@pytest.mark.parametrize("room", [False, True], ids=["beside the networks", "in their memory"])
@pytest.mark.parametrize("wish", ["pause", "stop"])
def test_samples_due_at_the_step_of_a_pause_or_a_stop_are_drawn(
    wish: str, room: bool, tmp_path: Path, straight: Result
) -> None:
    sampler = Drawing(2, room=room)
    result, log, records = run_asking(tmp_path, 2, wish, sampler=sampler)
    steps = [(r["event"], r["step"]) for r in records if r["event"] in ("sample", "paused", "resumed")]
    if wish == "stop":
        assert (steps, [step.step for step in log.steps]) == ([("sample", 2)], [1, 2])
        return
    assert steps == [("sample", 2), ("paused", 2), ("resumed", 2), ("sample", 4)]
    assert [step.step for step in log.steps] == [1, 2, 3, 4]
    tiny_parts.assert_same(read_lora(result.path), read_lora(straight.path))


@pytest.mark.parametrize("room", [False, True], ids=["beside the networks", "in their memory"])
def test_samples_due_at_the_step_of_a_cancel_are_drawn_when_the_run_goes_on(room: bool, tmp_path: Path) -> None:
    sampler = Drawing(2, room=room)
    with pytest.raises(Stop):
        train(replace(make_job(tmp_path, SETTINGS, Log(stop_after=2)), sampler=sampler))
    assert sampler.drawn == {}
    train(replace(make_job(tmp_path, SETTINGS), sampler=sampler))
    assert list(sampler.drawn) == [2, 4]
    # those that cannot be drawn are tried once
    failing = Drawing(2, room=room, fails=True)
    with pytest.raises(Stop):
        train(replace(make_job(tmp_path / "failing", SETTINGS, Log(stop_after=2)), sampler=failing))
    log = Log()
    train(replace(make_job(tmp_path / "failing", SETTINGS, log), sampler=failing))
    told = [line for line in log.lines if "could not be drawn" in line]
    assert [line.partition(" could")[0] for line in told] == ["The samples of step 2", "The samples of step 4"]


class AskingIn(Log):
    """Asks once a stage begins, and goes on from a pause at once."""

    def __init__(self, stage: str, control: Control, wish: str) -> None:
        super().__init__()
        self.within, self.control, self.wish = stage, control, wish

    def stage(self, name: str, done: int, total: int) -> None:
        super().stage(name, done, total)
        if name == self.within and self.stages.count(name) == 1:
            getattr(self.control, self.wish)()
        if name == "paused":
            self.control.resume()


@pytest.mark.parametrize("wish", ["stop", "pause"])
def test_a_measurement_is_left_for_a_stop_or_a_pause_and_made_when_the_run_goes_on(wish: str, tmp_path: Path) -> None:
    settings = make_settings(steps=4, train="unet", validation_images=2, validation=ValidationSettings(every=2))
    straight = train(make_job(tmp_path / "straight", settings))
    job = make_job(tmp_path, settings)
    log = AskingIn("held-out loss of the LoRA", job.control, wish)
    result = train(replace(job, watcher=log))
    if wish == "stop":
        assert result.stopped and log.stages.count(log.within) == 1
        assert [step for step, _ in result.validation] == [0]
        result = train(make_job(tmp_path, settings))
    assert result.validation == straight.validation
    tiny_parts.assert_same(read_lora(result.path), read_lora(straight.path))


def test_a_state_that_is_gone_after_a_pause_is_told(tmp_path: Path) -> None:
    def on_record(record: Mapping[str, object]) -> None:
        if record["event"] == "paused":
            for state in tmp_path.rglob("state.safetensors"):
                state.unlink()

    with pytest.raises(LoraFileError, match="is gone; queue again to begin anew"):
        run_asking(tmp_path, 2, "pause", on_record=on_record)


def test_a_run_that_was_killed_after_its_file_and_before_its_end_is_ended_when_it_is_found(tmp_path: Path) -> None:
    result = train(make_job(tmp_path, SETTINGS))
    (log,) = (tmp_path / "work" / "runs").glob("*/log.jsonl")
    lines = log.read_text().splitlines(keepends=True)
    assert '"end"' in lines[-1]
    log.write_text("".join(lines[:-1]))
    left = result.path.with_name(f".{result.path.name}.999999999.part")
    left.write_bytes(b"half a file")
    assert train(make_job(tmp_path, SETTINGS)).reused
    status = status_of(read_records(log))
    assert (status.state, status.step, status.file) == ("finished", 4, result.path.name)
    assert not left.exists()


def test_samples_that_cannot_be_drawn_do_not_end_the_training(tmp_path: Path, straight: Result) -> None:
    job = replace(make_job(tmp_path, SETTINGS), sampler=Drawing(3, fails=True))
    result = train(job)
    assert "The samples of step 3 could not be drawn (no paint left); training goes on." in result.report
    tiny_parts.assert_same(read_lora(result.path), read_lora(straight.path))
