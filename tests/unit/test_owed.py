"""Whatever ends a run: no half-taken step is kept, what is due is written later, nothing finished is made twice."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import tiny_parts
import torch
from pack.trainer.dataset.scan import scan_folder
from pack.trainer.errors import LoraFileError
from pack.trainer.lora.file import read_lora, read_metadata, read_precision
from pack.trainer.runs.checkpoints import Checkpoints
from pack.trainer.runs.identity import run_id
from pack.trainer.runs.journal import Journal
from pack.trainer.runs.log import read_records
from pack.trainer.runs.outputs import find_place, mark_of
from pack.trainer.runs.run import Result, train
from pack.trainer.settings.options import EmaSettings
from pack.trainer.settings.run_options import SavingSettings, ValidationSettings
from pack.trainer.training import loop
from pack.trainer.training.state import load_state, save_state
from safetensors import safe_open
from tiny_parts import Log, Stop, make_job, make_settings, make_trainer, no_parts

# four images, so that an epoch ends at step 4
OWING = make_settings(
    steps=6,
    train="unet",
    save_every_epochs=1,
    validation_images=0,
    saving=SavingSettings(state_steps=2, lora_steps=4),
)


def failing_at(call: int, real: Callable[..., Any], error: BaseException) -> Callable[..., Any]:
    """`real`, but for one call, which raises."""
    calls = 0

    def instead(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise error
        return real(*arguments, **named)

    return instead


def state_of(root: Path) -> Path:
    (path,) = (root / "work" / "runs").glob("*/state.safetensors")
    return path


def log_of(root: Path) -> Path:
    (path,) = (root / "work" / "runs").glob("*/log.jsonl")
    return path


def files_of(result: Result) -> dict[str, dict[str, torch.Tensor]]:
    return {path.name: read_lora(path) for path in result.path.parent.iterdir()}


def assert_same_files(left: Result, right: Result) -> None:
    ours, theirs = files_of(left), files_of(right)
    assert ours.keys() == theirs.keys()
    for name, tensors in ours.items():
        tiny_parts.assert_same(tensors, theirs[name])


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return train(make_job(tmp_path_factory.mktemp("straight"), OWING))


@pytest.mark.parametrize(("call", "whence"), [(4, "go on from step 2"), (1, "begin anew")])
def test_weights_ahead_of_the_number_of_steps_never_replace_the_good_state(
    call: int, whence: str, tmp_path: Path, straight: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log()
    with monkeypatch.context() as patched:
        # the weights are changed, the step is not counted
        patched.setattr(loop, "effective_rates", failing_at(call, loop.effective_rates, RuntimeError("no room")))
        with pytest.raises(RuntimeError, match="no room"):
            train(make_job(tmp_path, OWING, log))
    assert log.lines[-1] == f"Stopped amid the update of step {call}; queue again to {whence}."
    resumed = Log()
    assert_same_files(train(make_job(tmp_path, OWING, resumed)), straight)
    assert resumed.steps[0].step == (3 if call == 4 else 1)


def test_a_batch_that_cannot_be_drawn_ahead_is_drawn_when_it_is_needed(
    tmp_path: Path, straight: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the first call is of step 1 itself, the second ahead of step 2
    refusing = failing_at(2, loop.Trainer.inputs, torch.OutOfMemoryError("CUDA out of memory"))
    monkeypatch.setattr(loop.Trainer, "inputs", refusing)
    log = Log()
    assert_same_files(train(make_job(tmp_path, OWING, log)), straight)
    assert not any("too little memory" in line for line in log.lines)


def test_files_due_when_a_run_ended_are_written_when_it_goes_on(
    tmp_path: Path, straight: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        # between the step's count and everything that follows from it
        patched.setattr(Journal, "step", failing_at(4, Journal.step, Stop()))
        with pytest.raises(Stop):
            train(make_job(tmp_path, OWING))
    assert not (tmp_path / "loras").exists()
    log = Log()
    assert_same_files(train(make_job(tmp_path, OWING, log)), straight)
    assert "Saved mjesec-step00000004.safetensors as of step 4 of 6." in log.lines
    steps = [r for r in read_records(log_of(tmp_path)) if r["event"] == "step"]
    assert [r["step"] for r in steps] == [1, 2, 3, 4, 5, 6]
    assert [r["loss"] for r in steps] == list(straight.losses)


@dataclass
class Blocking(Log):
    """Puts a file in the place of a folder once the run has looked whether it can be written to."""

    path: Path = Path()

    def stage(self, name: str, done: int, total: int) -> None:
        if name == "encoding images":
            self.path.write_text("in the way")


def test_a_due_file_that_cannot_be_written_is_told_also_when_the_run_goes_on(tmp_path: Path) -> None:
    settings, loras = replace(OWING, saving=SavingSettings()), tmp_path / "loras"
    for _ in range(2):
        with pytest.raises(LoraFileError, match=r"'mjesec-000001\.safetensors' could not be written"):
            train(make_job(tmp_path, settings, Blocking(path=loras)))
        loras.unlink()
    train(make_job(tmp_path, settings))
    assert (loras / "mjesec-000001.safetensors").is_file()


def test_a_folder_in_the_place_of_a_due_file_is_left_alone(tmp_path: Path) -> None:
    settings, log = replace(OWING, saving=SavingSettings()), Log()
    taken = tmp_path / "loras" / "mjesec-000001.safetensors"
    log.step = lambda step: taken.mkdir(parents=True, exist_ok=True)  # type: ignore[method-assign]
    result = train(make_job(tmp_path, settings, log))
    assert taken.is_dir() and result.path.is_file()
    assert any("mjesec-000001.safetensors has become another run's" in line for line in log.lines)


def test_the_best_file_that_was_due_when_a_run_ended_is_written_when_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(
        OWING, validation_images=1, save_every_epochs=0, saving=SavingSettings(), validation=ValidationSettings(every=2)
    )
    whole = train(make_job(tmp_path / "whole", settings))
    best = min(whole.validation[1:], key=lambda pair: pair[1])[0]
    with monkeypatch.context() as patched:
        # the first call is that of the beginning, which has nothing to catch up with
        patched.setattr(Checkpoints, "save_if_best", failing_at(best // 2 + 1, Checkpoints.save_if_best, Stop()))
        with pytest.raises(Stop):
            train(make_job(tmp_path / "cut", settings))
    assert mark_of(tmp_path / "cut" / "loras" / "mjesec-best.safetensors") != f"{mark_of(whole.path)}@{best}"
    with safe_open(state_of(tmp_path / "cut"), framework="pt") as file:
        assert json.loads(file.metadata()["mjesec"])["step"] == best
    assert_same_files(train(make_job(tmp_path / "cut", settings)), whole)
    assert f"@{best}" in read_metadata(whole.path.with_name("mjesec-best.safetensors"))["mjesec_run"]


def test_the_seconds_of_all_steps_are_told_also_of_those_before_a_resumption(tmp_path: Path) -> None:
    trainer = make_trainer(OWING)
    trainer.run(lambda step: None)
    took = trainer.progress.seconds
    assert took > 0
    save_state(tmp_path / "state.safetensors", trainer, "run")
    fresh = make_trainer(OWING)
    assert load_state(tmp_path / "state.safetensors", fresh, "run")
    assert fresh.progress.seconds == took


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="looks at /proc")
def test_a_state_that_was_read_is_not_held_open(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    trainer = make_trainer(OWING)
    trainer.run(lambda step: None)
    save_state(path, trainer, "run")
    fresh = make_trainer(OWING)
    assert load_state(path, fresh, "run")
    assert str(path) not in Path("/proc/self/maps").read_text()


def test_what_is_saved_and_how_memory_is_spared_may_change_within_a_run(tmp_path: Path) -> None:
    dataset = scan_folder(str(tiny_parts.write_images(tmp_path / "images")))
    measured = replace(OWING, validation_images=1, validation=ValidationSettings(every=2))
    ids = {
        run_id(replace(measured, **changes), dataset, "base", "vae")
        for changes in (
            {},
            {"gradient_checkpointing": True},
            {"save_precision": "fp16"},
            {"saving": SavingSettings(state_seconds=7)},
        )
    }
    assert len(ids) == 1
    for changes in (
        {"save_every_epochs": 3},
        {"validation": ValidationSettings(every=2, keep_best=False)},
        {"validation": ValidationSettings(every=2, patience=1)},
    ):
        assert run_id(replace(measured, **changes), dataset, "base", "vae") not in ids


SHORT = make_settings(steps=2, train="unet")


def test_a_finished_run_under_another_name_is_copied_and_keeps_its_log(tmp_path: Path) -> None:
    settings = replace(SHORT, ema=EmaSettings(decay=0.9, file="beside"))
    first = train(replace(make_job(tmp_path, settings), keepsakes=lambda: {"prompt": "first"}))
    before = log_of(tmp_path).read_bytes()
    other = replace(make_job(tmp_path, replace(settings, output_name="other")), parts=no_parts)
    again = train(replace(other, keepsakes=lambda: {"prompt": "second"}))
    assert (again.path.name, again.reused) == ("other.safetensors", True)
    assert "mjesec.safetensors holds this very run already; other.safetensors is a copy of it." in again.report
    assert sorted(path.name for path in again.path.parent.iterdir()) == [
        f"{name}{kind}.safetensors" for name in ("mjesec", "other") for kind in ("-ema", "")
    ]
    for kind in ("", "-ema"):
        ours, theirs = (first.path.with_name(f"{name}{kind}.safetensors") for name in ("mjesec", "other"))
        tiny_parts.assert_same(read_lora(ours), read_lora(theirs))
        told, copied = read_metadata(ours), read_metadata(theirs)
        differ = {key for key in told.keys() | copied.keys() if told.get(key) != copied.get(key)}
        assert differ == {"ss_output_name", "modelspec.title", "prompt"}
        assert (copied["ss_output_name"], copied["prompt"]) == (f"other{kind}", "second")
    assert log_of(tmp_path).read_bytes() == before


def test_the_files_that_a_finished_run_made_on_the_way_are_copied_and_those_that_went_are_named(
    tmp_path: Path, straight: Result
) -> None:
    settings = replace(OWING, ema=EmaSettings(decay=0.9, file="beside"), saving=SavingSettings(lora_steps=2))
    first = train(make_job(tmp_path, settings))
    loras = first.path.parent
    (loras / "mjesec-step00000002.safetensors").unlink()
    stranger = loras / "mjesec-step00000099.safetensors"
    stranger.write_bytes(next(path for path in straight.path.parent.iterdir()).read_bytes())
    for _ in range(2):
        other = replace(make_job(tmp_path, replace(settings, output_name="other")), parts=no_parts)
        again = train(other)
        endings = {path.name.removeprefix("mjesec") for path in loras.glob("mjesec*")} - {stranger.name[6:]}
        assert {path.name.removeprefix("other") for path in loras.glob("other*")} == endings
        # as after a process that was killed before its last copy
        again.path.unlink()
    assert (
        "other.safetensors is a copy of it, and 5 files from on the way are copied too; not there any more: "
        "mjesec-step00000002.safetensors."
    ) in again.report
    for ending in ("-000001", "-000001-ema", "-step00000004", "-step00000004-ema", "-ema"):
        ours, copy = (loras / f"{name}{ending}.safetensors" for name in ("mjesec", "other"))
        tiny_parts.assert_same(read_lora(ours), read_lora(copy))
        assert (mark_of(copy), read_metadata(copy)["ss_output_name"]) == (mark_of(ours), copy.stem)


def test_a_log_that_names_a_file_elsewhere_is_not_believed(tmp_path: Path) -> None:
    result = train(make_job(tmp_path, SHORT))
    run = read_metadata(result.path)["mjesec_run"]
    moved = tmp_path / "mjesec.safetensors"
    result.path.rename(moved)
    log = log_of(tmp_path)
    log.write_text(log.read_text().replace('"file": "mjesec.safetensors"', f'"file": "../{moved.name}"'))
    place = find_place("other", run, "fp32", tmp_path / "loras", tmp_path / "work")
    assert (place.finished, place.twin) == (False, None)


def test_a_finished_run_in_another_precision_is_left_alone(tmp_path: Path) -> None:
    first = train(make_job(tmp_path, replace(SHORT, save_precision="fp32")))
    before = first.path.read_bytes()
    half = replace(SHORT, save_precision="fp16")
    second = train(make_job(tmp_path, half))
    told = "mjesec.safetensors holds this run in another precision, so this one becomes mjesec_2.safetensors."
    assert told in second.report
    assert {tensor.dtype for name, tensor in read_lora(second.path).items() if "lora_up" in name} == {torch.float16}
    assert first.path.read_bytes() == before
    assert train(replace(make_job(tmp_path, half), parts=no_parts)).path == second.path


@pytest.mark.parametrize("ahead", [-86_400, 86_400])
def test_the_state_of_an_unfinished_run_in_another_precision_stays_whatever_the_clock(
    tmp_path: Path, ahead: int
) -> None:
    settings = replace(SHORT, steps=3)
    finished = train(make_job(tmp_path, replace(settings, save_precision="fp32"))).path
    half = replace(settings, save_precision="fp16")
    with pytest.raises(Stop):
        train(make_job(tmp_path, half, Log(stop_after=2)))
    os.utime(finished, (time.time() + ahead,) * 2)
    assert train(replace(make_job(tmp_path, settings), parts=no_parts)).reused
    log = Log()
    train(make_job(tmp_path, half, log))
    assert [step.step for step in log.steps] == [3]


def test_a_file_of_a_step_is_not_called_another_precision(tmp_path: Path) -> None:
    settings = replace(SHORT, steps=4, saving=SavingSettings(lora_steps=2))
    first = train(make_job(tmp_path, settings))
    first.path.with_name("mjesec-step00000002.safetensors").replace(first.path)
    told = "mjesec.safetensors is of a step of this run, so this one becomes mjesec_2.safetensors."
    assert told in train(make_job(tmp_path, settings)).report


def test_a_state_that_a_finished_run_left_goes_and_those_of_others_are_told(tmp_path: Path) -> None:
    result = train(make_job(tmp_path, SHORT))
    left = log_of(tmp_path).with_name("state.safetensors")
    left.write_bytes(b"of a process that was killed before it could delete it")
    os.utime(left, ns=(0, result.path.stat().st_mtime_ns))
    train(replace(make_job(tmp_path, SHORT), parts=no_parts))
    assert not left.exists()
    with pytest.raises(Stop):
        train(make_job(tmp_path, replace(SHORT, seed=1, steps=9), Log(stop_after=1)))
    log = Log()
    other = replace(SHORT, seed=2)
    train(make_job(tmp_path, other, log))
    size = state_of(tmp_path).stat().st_size / 2**20
    assert (
        f"Not finished: 1 other run, with {size:.0f} MB of saved states in work/runs; delete the folders of those that "
        "will not go on."
    ) in log.lines
    assert result.path.exists()


@pytest.mark.parametrize("ahead", [-86_400, 86_400])
def test_a_state_that_a_finished_run_left_goes_whatever_the_clock(tmp_path: Path, ahead: int) -> None:
    with pytest.raises(Stop):
        train(make_job(tmp_path, SHORT, Log(stop_after=1)))
    left = state_of(tmp_path)
    held = left.read_bytes()
    finished = train(make_job(tmp_path, SHORT)).path
    left.write_bytes(held)
    os.utime(finished, (time.time() + ahead,) * 2)
    assert train(replace(make_job(tmp_path, SHORT), parts=no_parts)).reused
    assert not left.exists()


def test_scratch_of_this_process_number_and_of_dead_ones_goes_and_that_of_the_living_stays(tmp_path: Path) -> None:
    place = find_place("mjesec", "a" * 64, "fp32", tmp_path / "loras", tmp_path / "work")
    folder = place.outputs.lora.parent
    folder.mkdir()
    living, own, dead = (folder / f".mjesec.safetensors.{n}.part" for n in (os.getppid(), os.getpid(), 99_999_999))
    for path in (living, own, dead):
        path.touch()
    place.outputs.remove_scratch()
    assert list(folder.iterdir()) == [living]


def test_the_precision_of_a_file_is_that_of_its_factors(tmp_path: Path) -> None:
    result = train(make_job(tmp_path, replace(SHORT, save_precision="bf16")))
    with safe_open(result.path, framework="pt") as file:
        assert "BF16" in {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    assert read_precision(result.path) == "bf16"
