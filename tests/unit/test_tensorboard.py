"""TensorBoard event files, read back with TensorBoard's own reader."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from pack.trainer.runs import tensorboard
from pack.trainer.runs.run import train
from pack.trainer.settings.run_options import SavingSettings, ValidationSettings
from tiny_parts import Log, Stop, make_job, make_settings

SETTINGS = make_settings(steps=3, train="unet", validation_images=1, validation=ValidationSettings(every=2))


def test_losses_rates_and_held_out_losses_are_written_once_also_by_a_resumed_run(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with pytest.raises(Stop):
        train(make_job(tmp_path, SETTINGS, Log(stop_after=2)))
    result = train(make_job(tmp_path, SETTINGS))
    (folder,) = (tmp_path / "work" / "tensorboard").iterdir()
    assert folder.name.startswith("mjesec-")
    assert f"TensorBoard files: {folder}." in result.report
    events = reader.EventAccumulator(str(folder))
    events.Reload()
    scalars = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert scalars["loss/training"] == [(i, pytest.approx(loss)) for i, loss in enumerate(result.losses, 1)]
    assert scalars["loss/held-out"] == [(step, pytest.approx(loss)) for step, loss in result.validation]
    assert [step for step, _ in scalars["learning rate/unet"]] == [1, 2, 3]
    assert len([tag for tag in scalars if tag.startswith("held-out by timestep/")]) == 8


def test_without_the_package_the_report_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorboard.importlib.util, "find_spec", lambda name: None)
    result = train(make_job(tmp_path, replace(SETTINGS, steps=2)))
    assert "No TensorBoard files: the package tensorboard is not installed." in result.report
    assert not (tmp_path / "work" / "tensorboard").exists()


def test_they_can_be_turned_off(tmp_path: Path) -> None:
    result = train(make_job(tmp_path, replace(SETTINGS, steps=2, saving=SavingSettings(tensorboard=False))))
    assert "TensorBoard" not in result.report
    assert not (tmp_path / "work" / "tensorboard").exists()
