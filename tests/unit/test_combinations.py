"""Options that meet each other: what they do together, and what is said where they cannot."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import pytest
import tiny_parts
import torch
from pack.trainer.errors import BrokenImages, SettingsError
from pack.trainer.lora.file import read_lora, read_metadata
from pack.trainer.runs.identity import run_id
from pack.trainer.runs.log import RunLog, read_records
from pack.trainer.runs.run import train
from pack.trainer.sdxl import precision
from pack.trainer.sdxl.parts import Parts
from pack.trainer.settings.options import AdapterSettings, CaptionSettings, EmaSettings, LossSettings
from pack.trainer.settings.run_options import SavingSettings, ValidationSettings
from pack.trainer.settings.training import TrainSettings
from pack.trainer.training import latents
from pack.trainer.training.ema import RunningMean
from pack.trainer.training.loop import Step
from pack.trainer.training.memory import kept_bytes
from pack.trainer.training.optim import check_optimizer, effective_rates
from tiny_parts import CPU, Log, encode, make_job, make_parts, make_settings, make_trainer

SHORT = make_settings(steps=3, train="unet")


@pytest.mark.parametrize("storage", ["as given", "fp8"])
@pytest.mark.parametrize("train_what", ["unet", "unet+text"])
def test_pissa_trains_in_half_precision(
    train_what: str, storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # also where this CPU would compute in fp32
    monkeypatch.setattr(precision, "cpu_multiplies", lambda name: True)
    adapter = AdapterSettings(initial="pissa")
    settings = make_settings(steps=2, train=train_what, rank=2, precision="bf16", adapter=adapter, base_storage=storage)
    job = make_job(tmp_path, settings)
    job.parts = lambda: make_parts(torch.bfloat16)
    assert len(train(job).losses) == 2


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"compile_blocks": True}, "compile_blocks cannot be combined with base_storage fp8"),
        ({"adapter": AdapterSettings(dora=True, conv_rank=2)}, "dora with a conv_rank cannot be combined"),
    ],
)
def test_what_an_fp8_base_cannot_do_is_refused(changes: dict[str, object], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        TrainSettings(base_storage="fp8", **changes)  # type: ignore[arg-type]
    TrainSettings(base_storage="int8", **changes)  # type: ignore[arg-type]


def test_a_schedule_that_ends_above_its_rate_is_refused() -> None:
    with pytest.raises(SettingsError, match="polynomial ends at a rate of 1e-07, and 1e-08 is no more than that"):
        TrainSettings(schedule="polynomial", unet_lr=1e-8, text_lr=0.0)


@pytest.mark.parametrize("name", ["pytorch_optimizer.Magma", "pytorch_optimizer.StableSPAM"])
def test_an_optimizer_whose_state_is_not_whole_in_a_file_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="holds what no saved state can"):
        check_optimizer(replace(SHORT, optimizer=name), CPU)


def test_another_librarys_adafactor_has_the_rates_of_its_groups() -> None:
    trainer = make_trainer(replace(SHORT, optimizer="pytorch_optimizer.AdaFactor"))
    trainer.step()
    assert effective_rates(trainer.optimizer) == {"unet": pytest.approx(trainer.rates["unet"])}


def test_an_optimizers_draws_follow_from_the_seed_and_leave_the_hosts_alone() -> None:
    settings = replace(SHORT, optimizer="pytorch_optimizer.Gravity", steps=2)
    learnt = []
    for seed in (1, 2):
        trainer = make_trainer(settings)
        with tiny_parts.seeded(seed):
            before = torch.get_rng_state()
            trainer.run(lambda step: None)
            assert torch.equal(torch.get_rng_state(), before)
        learnt.append(tiny_parts.weights_of(trainer))
    tiny_parts.assert_same(*learnt)


@pytest.mark.parametrize("name", ["prodigy", "pytorch_optimizer.DAdaptAdam"])
def test_a_warm_ups_first_step_is_none_for_who_finds_its_own_rate(name: str) -> None:
    warm = replace(SHORT, optimizer=name, unet_lr=1.0, schedule="constant_with_warmup", warmup_steps=2)
    trainer = make_trainer(warm)
    before = tiny_parts.weights_of(trainer)
    trainer.step()
    assert not trainer.optimizer.state
    tiny_parts.assert_same(tiny_parts.weights_of(trainer), before)
    trainer.step()
    assert len(trainer.optimizer.state) == len(before)


def test_an_image_that_the_vae_makes_no_numbers_of_is_left_out_and_named(tmp_path: Path) -> None:
    def faulty(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, std = encode(pixels)
        faulty.count += 1
        return (mean * float("nan"), std) if faulty.count == 2 else (mean, std)

    faulty.count = 0  # type: ignore[attr-defined]
    log = Log()
    job = make_job(tmp_path, SHORT, log)
    job.encode = faulty
    result = train(job)
    assert torch.tensor(result.losses).isfinite().all()
    assert "disc_1.png" in "\n".join(log.lines)
    assert "the VAE makes no finite numbers of it" in "\n".join(log.lines)


def test_latents_on_disk_that_are_no_numbers_are_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(latents, "_is_finite", lambda held: True)
        job = make_job(tmp_path, SHORT)
        job.encode = lambda pixels: tuple(part * float("nan") for part in encode(pixels))
        with pytest.raises(Exception, match="not a finite number"):
            train(job)
    assert torch.tensor(train(make_job(tmp_path, replace(SHORT, output_name="again"))).losses).isfinite().all()


def test_a_vae_that_makes_no_numbers_at_all_is_a_sentence(tmp_path: Path) -> None:
    job = make_job(tmp_path, SHORT)
    job.encode = lambda pixels: tuple(part * float("nan") for part in encode(pixels))
    with pytest.raises(BrokenImages, match="no finite numbers"):
        train(job)


def test_files_that_another_run_has_put_there_in_the_meantime_stay(tmp_path: Path) -> None:
    settings = replace(
        SHORT,
        steps=4,
        ema=EmaSettings(decay=0.9, file="beside"),
        saving=SavingSettings(lora_steps=2),
        validation_images=1,
        validation=ValidationSettings(every=1),
    )
    log, others = Log(), {}
    job = make_job(tmp_path, settings, log)
    parts, loras = job.parts, tmp_path / "loras"

    def meanwhile() -> Parts:
        if not others:
            train(make_job(tmp_path, replace(settings, seed=99)))
            others.update({path: path.read_bytes() for path in loras.iterdir()})
        return parts()

    job.parts = meanwhile
    result = train(job)
    assert {path: path.read_bytes() for path in others} == others
    aside = result.path.stem
    assert aside.startswith("mjesec_")
    ends = {path.stem.removeprefix(aside) for path in set(loras.iterdir()) - set(others)}
    assert ends == {path.stem.removeprefix("mjesec") for path in others}
    told = "\n".join(log.lines)
    assert told.count("has become another run's since this one began") == 1
    assert f"Saved {aside}-step00000002.safetensors as of step 2 of 4." in told
    assert f"Kept as {aside}-best.safetensors." in result.report
    again = make_job(tmp_path, replace(settings, output_name="copy"))
    again.parts = tiny_parts.no_parts
    assert train(again).reused
    assert {path.stem.removeprefix("copy") for path in loras.glob("copy*")} == ends


@pytest.mark.parametrize("links", [True, False])
def test_of_two_runs_that_end_at_the_same_moment_both_files_stay(
    links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second run begins and ends between the first one's last look at its name and its writing of the file."""

    def refused(*arguments: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", refused)
    settings = replace(SHORT, ema=EmaSettings(decay=0.9, file="beside"))
    other = make_job(tmp_path, replace(SHORT, seed=99))
    job = make_job(tmp_path, settings, Log())
    loras, found = tmp_path / "loras", {}

    def meanwhile() -> dict[str, str]:
        found[loras / "mjesec.safetensors"] = train(other).path.read_bytes()
        return {}

    job.keepsakes = meanwhile
    result = train(job)
    assert {path: path.read_bytes() for path in found} == found
    aside = f"mjesec_{read_metadata(result.path)['mjesec_run'][:8]}"
    assert sorted(path.name for path in loras.iterdir()) == [
        "mjesec.safetensors",
        f"{aside}-ema.safetensors",
        f"{aside}.safetensors",
    ]
    assert result.path.stem == aside
    assert "mjesec.safetensors has become another run's since this one began" in result.report


def test_a_run_is_the_same_whether_a_mark_that_no_caption_has_is_one(tmp_path: Path) -> None:
    dataset = make_job(tmp_path, SHORT).dataset

    def run(mark: str, caption: str) -> str:
        samples = tuple(replace(sample, caption=caption) for sample in dataset.samples)
        settings = replace(SHORT, captions=CaptionSettings(keep_separator=mark))
        return run_id(settings, replace(dataset, samples=samples), "base", "vae")

    assert run("|||", "a, b") == run("", "a, b") != run("|", "a, b")
    assert run("|||", "a ||| b") != run("", "a ||| b")


def test_a_short_runs_mean_is_of_the_run_and_not_of_what_it_began_with() -> None:
    weights = [torch.zeros(3)]
    mean = RunningMean(weights, 0.9999)
    expected = 0.0
    for step in range(40):
        weights[0].fill_(step + 1)
        mean.update(weights, step)
        decay = (1 + step) / (10 + step)
        expected = decay * expected + (1 - decay) * (step + 1)
    torch.testing.assert_close(mean.values[0], torch.full((3,), expected))
    assert expected > 30
    for step in range(10**6, 10**6 + 2):
        before = mean.values[0].clone()
        mean.update(weights, step)
        torch.testing.assert_close(mean.values[0], before.lerp(weights[0], 1e-4))


def test_the_mean_is_updated_with_the_runs_steps(tmp_path: Path) -> None:
    def up(settings: TrainSettings) -> float:
        file = read_lora(train(make_job(tmp_path, settings)).path)
        return sum(tensor.norm().item() for name, tensor in file.items() if name.endswith("lora_up.weight"))

    plain = up(replace(SHORT, steps=20, output_name="plain"))
    mean = up(replace(SHORT, steps=20, output_name="mean", ema=EmaSettings(decay=0.9999)))
    assert 0.3 * plain < mean < plain


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"loss": LossSettings(mask="files")}, "No image has a mask in a folder 'masks' beside it"),
        ({"loss": LossSettings(mask="alpha")}, "No image is transparent"),
        ({"optimizer": "schedulefree", "schedule": "cosine"}, "ScheduleFreeAdamW is made to run without a schedule"),
        ({"optimizer": "pytorch_optimizer.Prodigy"}, "Prodigy multiplies its own estimate by the learning rate"),
        ({"optimizer": "pytorch_optimizer.DAdaptAdam"}, "DAdaptAdam multiplies its own estimate"),
    ],
)
def test_what_comes_to_nothing_or_to_something_else_is_told(
    changes: dict[str, object], says: str, tmp_path: Path
) -> None:
    log = Log()
    train(make_job(tmp_path, replace(SHORT, steps=1, **changes), log))
    assert says in "\n".join(log.lines)
    quiet = Log()
    train(make_job(tmp_path, replace(SHORT, steps=1, output_name="quiet"), quiet))
    assert says not in "\n".join(quiet.lines)


def test_a_precision_that_this_cpu_has_not_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "cpu_multiplies", lambda name: False)
    log = Log()
    train(make_job(tmp_path, replace(SHORT, precision="bf16"), log))
    assert "This CPU has no products in bf16: they are computed in fp32." in log.lines


def test_a_measurement_takes_no_more_than_may_be_kept() -> None:
    trainer = make_trainer(replace(SHORT, batch_size=2))
    whole = kept_bytes(trainer)
    assert kept_bytes(trainer, whole) == whole
    assert kept_bytes(trainer, whole - 1) > whole


@dataclass
class Deleting(Log):
    """Somebody who tidies up after the last step."""

    folder: Path = Path()

    def step(self, step: Step) -> None:
        super().step(step)
        if step.step == step.steps:
            (best,) = self.folder.glob("other-best.safetensors")
            best.unlink()


def test_a_report_names_no_best_file_that_is_not_there(tmp_path: Path) -> None:
    settings = replace(SHORT, validation_images=1, validation=ValidationSettings(every=1))
    assert "Kept as mjesec-best.safetensors." in train(make_job(tmp_path, settings)).report
    other = replace(settings, seed=7, output_name="other")
    assert "Kept as" not in train(make_job(tmp_path, other, Deleting(folder=tmp_path / "loras"))).report


class Full:
    """A file on a disk that is full after half a line."""

    def __init__(self, file: IO[str]) -> None:
        self.file = file

    def write(self, text: str) -> None:
        self.file.write(text[: len(text) // 2])
        self.file.flush()
        raise OSError(28, "No space left on device")

    def close(self) -> None:
        self.file.close()


def test_a_log_goes_on_once_the_disk_has_room_again(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "log.jsonl")
    log.open(0)
    log.write("step", 1)
    log._file = Full(log._file)  # type: ignore[assignment, arg-type]
    log.write("step", 2)
    log.write("step", 3)
    log.end("finished", "done", "moon.safetensors")
    log.close()
    log.write("step", 4)
    records = read_records(log.path)
    assert [(record["event"], record["step"]) for record in records] == [("step", 1), ("step", 3), ("end", 3)]
