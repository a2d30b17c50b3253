"""Held-out losses during training: comparable numbers, the best checkpoint, the end of a run that gains nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tiny_parts
import torch
from pack.trainer.errors import SettingsError
from pack.trainer.lora.file import read_lora, read_metadata
from pack.trainer.runs.log import read_records
from pack.trainer.runs.run import Result, train
from pack.trainer.runs.validate import Validator, band_losses, drawn
from pack.trainer.settings.run_options import ValidationSettings
from pack.trainer.settings.training import TrainSettings
from pack.trainer.training.bands import TIMESTEPS, Validation, best_of, overfitting_lines, validation_of
from pack.trainer.training.data import Batch, Example
from pack.trainer.training.processes import Processes
from tiny_parts import Log, Stop, make_examples, make_job, make_settings, make_trainer


def measured(**validation: object) -> TrainSettings:
    options = ValidationSettings(**{"every": 2, **validation})
    return make_settings(steps=6, train="unet", batch_size=8, validation_images=1, validation=options)


def run(root: Path, settings: TrainSettings, log: Log | None = None) -> Result:
    return train(make_job(root, settings, log))


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    root = tmp_path_factory.mktemp("straight")
    return root, run(root, measured())


def nothing(done: int, of: int) -> None:
    """Nobody watches."""


def test_the_loss_of_a_band_is_that_of_its_timestep_and_the_same_at_every_call() -> None:
    trainer = make_trainer(make_settings(train="unet", batch_size=3))
    examples = make_examples(2)
    state = torch.get_rng_state()
    bands = band_losses(trainer, examples, nothing)
    assert len(bands) == len(TIMESTEPS) == 8
    assert band_losses(trainer, examples, nothing) == bands
    assert torch.equal(torch.get_rng_state(), state)
    # high noise is the easier to predict, so the bands differ
    assert len({round(loss, 4) for loss in bands}) > 4


class OnMps:
    """A tensor of a device without float64."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor

    def detach(self) -> OnMps:
        return self

    def cpu(self) -> torch.Tensor:
        return self._tensor

    def double(self) -> None:
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64.")


def test_losses_are_measured_on_a_device_without_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, examples = make_trainer(make_settings(train="unet", batch_size=3)), make_examples(1)
    plain = band_losses(trainer, examples, nothing)
    measure = trainer.loss_per_image
    monkeypatch.setattr(trainer, "loss_per_image", lambda *arguments: OnMps(measure(*arguments)))
    assert band_losses(trainer, examples, nothing) == plain


def test_training_images_are_drawn_from_all_folders_and_none_is_of_regularisation() -> None:
    examples = make_examples(24)
    prior = [replace(each, sample=replace(each.sample, regularisation=True)) for each in examples[:8]]
    own, held_out = examples[8:20], examples[20:]
    smaller = [replace(each, placement=replace(each.placement, crop=(1, 1))) for each in own]

    def measured_of(*training: Example) -> tuple[Example, ...]:
        return Validator(training, held_out, None, None, nothing).training  # type: ignore[arg-type]

    found = measured_of(*prior, *own, *smaller)
    assert len(found) == len(held_out) == 4
    assert all(each in own for each in found), "neither of regularisation nor at another resolution"
    assert not set(found) <= set(own[:6]) and not set(found) <= set(own[6:])
    assert measured_of(*reversed(own)) == found
    assert [sample.path for sample in drawn([each.sample for each in own], 5)][:4] == [
        each.sample.path for each in found
    ]


def test_losses_are_measured_every_so_many_steps_and_at_both_ends(straight: tuple[Path, Result]) -> None:
    root, result = straight
    assert [step for step, _ in result.validation] == [0, 2, 4, 6]
    assert result.held_out == (result.validation[0][1], result.validation[-1][1])
    (path,) = (root / "work" / "runs").glob("*/log.jsonl")
    logged = [record for record in read_records(path) if record["event"] == "validation"]
    assert [(r["step"], r["loss"]) for r in logged] == list(result.validation)
    assert all(len(r["held_out"]) == len(r["training"]) == 8 for r in logged)


def test_measuring_changes_nothing_of_what_is_learnt(straight: tuple[Path, Result], tmp_path: Path) -> None:
    plain = run(tmp_path, replace(measured(), validation=ValidationSettings()))
    assert [step for step, _ in plain.validation] == [0, 6]
    tiny_parts.assert_same(read_lora(plain.path), read_lora(straight[1].path))


def test_the_best_checkpoint_is_kept_and_is_the_lora_of_its_step(straight: tuple[Path, Result], tmp_path: Path) -> None:
    _, result = straight
    best_step, best_loss = min(result.validation[1:], key=lambda pair: pair[1])
    best = result.path.with_name("mjesec-best.safetensors")
    assert read_metadata(best)["ss_steps"] == str(best_step)
    assert f"Best held-out loss: {best_loss:.5f} at step {best_step}" in result.report
    assert "Kept as mjesec-best.safetensors." in result.report
    without = run(tmp_path, measured(keep_best=False))
    assert not without.path.with_name(best.name).exists()
    assert "Kept as" not in without.report


@pytest.mark.parametrize("where", ["held-out loss of the LoRA", 3])
def test_a_resumed_run_has_the_same_evidence(straight: tuple[Path, Result], tmp_path: Path, where: str | int) -> None:
    _, result = straight
    log = Log(stop_after=where) if isinstance(where, int) else Log(stop_at_stage=where)
    with pytest.raises(Stop):
        run(tmp_path, measured(), log)
    resumed = run(tmp_path, measured())
    assert resumed.validation == result.validation
    tiny_parts.assert_same(
        read_lora(resumed.path.with_name("mjesec-best.safetensors")),
        read_lora(result.path.with_name("mjesec-best.safetensors")),
    )


def test_a_reused_run_still_has_its_held_out_losses(straight: tuple[Path, Result]) -> None:
    root, result = straight
    again = run(root, measured())
    assert again.reused
    assert [step for step, _ in again.validation] == [0, 2, 4, 6]
    assert [loss for _, loss in again.validation] == pytest.approx([loss for _, loss in result.validation], abs=1e-6)


def test_a_run_that_gains_nothing_more_ends_early(tmp_path: Path) -> None:
    # a rate at which the loss only grows
    settings = replace(measured(every=1, patience=2), unet_lr=0.3, steps=40)
    log = Log()
    result = run(tmp_path, settings, log)
    best = min(result.validation[1:], key=lambda pair: pair[1])[0]
    assert log.steps[-1].step == best + 2 < 40
    assert f"Ended at step {best + 2} of 40: the held-out loss has not fallen for 2 measurements." in result.report
    assert (result.path.name, result.stopped) == ("mjesec.safetensors", False)
    assert run(tmp_path, settings).reused


def test_measurements_need_images_and_patience_needs_measurements() -> None:
    with pytest.raises(SettingsError, match="validate_every needs images to measure; give validation_images"):
        make_settings(validation=ValidationSettings(every=2))
    with pytest.raises(SettingsError, match="patience needs measurements"):
        ValidationSettings(patience=2)


def checkpoint(step: int, held_out: float, training: float) -> Validation:
    return Validation(step, (held_out,) * 8, (training,) * 8)


def test_the_report_names_the_best_checkpoint_and_overfitting() -> None:
    good, bad = checkpoint(10, 0.8, 0.9), checkpoint(20, 1.2, 0.5)
    base = checkpoint(0, 1.0, 1.0)
    lines = overfitting_lines([base, good, bad])
    assert lines[2].split() == ["10", *["0.80/0.90"] * 9]
    assert lines[-2] == "Best held-out loss: 0.80000 at step 10 (base 1.00000)."
    assert "Since step 10 the held-out images have lost while the training images gained" in lines[-1]
    assert "overfitting" not in "".join(overfitting_lines([base, good, checkpoint(20, 0.7, 0.6)]))
    assert overfitting_lines([base]) == []


def test_of_equal_checkpoints_the_earliest_is_the_best() -> None:
    one, other = checkpoint(10, 0.5, 0.5), checkpoint(20, 0.5, 0.4)
    assert best_of([checkpoint(0, 0.1, 0.1), one, other]) == one
    assert best_of([checkpoint(0, 0.1, 0.1)]) is None
    assert validation_of(one.as_plain()) == one


def test_a_loss_that_is_no_number_is_never_the_best() -> None:
    one, none = checkpoint(2, 0.3, 0.2), checkpoint(1, float("nan"), 0.2)
    assert best_of([none, one]) == one
    assert best_of([none]) is None
    assert "Best held-out loss" not in "\n".join(overfitting_lines([checkpoint(0, 0.4, 0.4), none]))


def test_a_held_out_loss_that_is_no_number_is_told_and_leaves_no_best_file(tmp_path: Path) -> None:
    settings = make_settings(steps=1, train="unet", validation_images=1, validation=ValidationSettings(every=1))
    job = make_job(tmp_path, settings)
    held_out, training = job.dataset.split(1, settings.seed)[::-1]
    calls = iter([*training.samples, *held_out.samples])

    def spoiled(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, std = tiny_parts.encode(pixels)
        return (mean * 1e30 if next(calls) in held_out.samples else mean), std

    result = train(replace(job, encode=spoiled))
    assert "The held-out loss at step 1 is no finite number, so that it counts for no best file." in job.watcher.lines
    assert sorted(path.name for path in result.path.parent.iterdir()) == ["mjesec.safetensors"]


def test_of_several_processes_each_measures_in_pieces_of_its_own_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(make_settings(batch_size=3))
    whole = band_losses(trainer, trainer.examples[:1], lambda done, of: None)
    trainer.processes = Processes(0, 2)
    sizes: list[int] = []
    real = trainer.loss_per_image

    def counted(batch: Batch, generator: torch.Generator, timesteps: torch.Tensor) -> torch.Tensor:
        sizes.append(len(timesteps))
        return real(batch, generator, timesteps)

    monkeypatch.setattr(trainer, "loss_per_image", counted)
    assert band_losses(trainer, trainer.examples[:1], lambda done, of: None) == pytest.approx(whole, rel=1e-5)
    assert sizes == [2, 2, 2, 2]
