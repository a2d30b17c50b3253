"""Whole runs on tiny networks: from a folder of images to a LoRA file, reused, resumed, refused, interrupted."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_parts
import torch
from pack.trainer.adapters.adapters import add_adapters
from pack.trainer.dataset.buckets import BucketSettings
from pack.trainer.dataset.scan import scan_folder
from pack.trainer.errors import DatasetError, LoraFileError, NonFiniteLoss
from pack.trainer.lora.file import lora_tensors, read_lora, read_metadata
from pack.trainer.runs import checkpoints
from pack.trainer.runs.identity import run_id, weights_fingerprint
from pack.trainer.runs.run import Job, Result, train
from pack.trainer.settings.run_options import SavingSettings, ValidationSettings
from pack.trainer.settings.training import TrainSettings
from pack.trainer.training.data import Plan
from pack.trainer.training.loop import Step
from tiny_parts import Log, Stop, make_job, make_settings, no_parts

SHORT = make_settings(steps=3)
# for a latent: its square is no float32 any more
FAR_TOO_LARGE = 1e30


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def run(root: Path, settings: TrainSettings = SHORT, log: Log | None = None) -> Result:
    return train(make_job(root, settings, log))


def test_a_folder_of_images_becomes_a_lora(tmp_path: Path) -> None:
    log = Log()
    result = run(tmp_path, log=log)
    assert result.path == tmp_path / "loras" / "mjesec.safetensors"
    assert not result.reused
    adapters = add_adapters(tiny_parts.make_parts(), SHORT)
    written = read_lora(result.path)
    assert written.keys() == lora_tensors(adapters, "fp32").keys()
    assert any(tensor.any() for name, tensor in written.items() if name.endswith("lora_up.weight"))
    assert [step.step for step in log.steps] == [1, 2, 3]
    assert list(result.losses) == [step.loss for step in log.steps]
    assert log.stages == ["encoding images"] * 4
    assert result.report.splitlines() == "\n".join(log.lines).splitlines()
    assert "3 steps of 1 image: 0.75 epochs of 4 steps." in log.lines


@pytest.mark.parametrize(
    ("batch", "accumulation", "told"),
    [(3, 1, "at most 3 images, 2 on average"), (4, 4, "at most 16 images, 4 on average"), (2, 2, "4 images:")],
)
def test_steps_that_cannot_be_filled_are_told_with_the_images_they_have(
    tmp_path: Path, batch: int, accumulation: int, told: str
) -> None:
    logs = [Log(), Log()]
    for log, given in zip(logs, ((1, 1), (batch, accumulation)), strict=True):
        settings = make_settings(steps=2, batch_size=given[0], gradient_accumulation=given[1])
        run(tmp_path / str(given), settings, log)
    assert any(line.startswith(f"2 steps of {told}") for line in logs[1].lines), logs[1].lines
    one, own = (
        float(re.search(r"^A step is (\S+) TFLOP at least", "\n".join(log.lines), re.MULTILINE)[1]) for log in logs
    )
    images = 2 if batch == 3 else 4
    assert own == pytest.approx(images * one, rel=0.02)


def test_a_finished_run_leaves_nothing_but_its_file_its_log_and_the_latents(tmp_path: Path) -> None:
    run(tmp_path)
    assert files_in(tmp_path / "loras") == ["mjesec.safetensors"]
    assert files_in(tmp_path / "work" / "runs") == ["log.jsonl"]
    assert len(files_in(tmp_path / "work" / "latents")) == 4


def test_the_same_run_again_is_found_and_not_trained(tmp_path: Path) -> None:
    first = run(tmp_path)
    before = first.path.read_bytes()
    again = train(replace(make_job(tmp_path, SHORT), parts=no_parts, encode=no_parts))
    assert (again.path, again.reused) == (first.path, True)
    assert again.losses == pytest.approx(first.losses, rel=1e-4)
    assert "holds this very run already" in again.report
    assert first.path.read_bytes() == before


def test_another_run_gets_another_file_and_says_so(tmp_path: Path) -> None:
    settings = make_settings(steps=1)
    first = run(tmp_path, settings)
    before = first.path.read_bytes()
    job = make_job(tmp_path, settings)
    others = [
        replace(job, settings=replace(settings, seed=1)),
        replace(job, base=replace(job.base, fingerprint="another")),
        replace(job, base=replace(job.base, vae_fingerprint="another")),
        replace(job, dataset=replace(job.dataset, samples=job.dataset.samples[1:])),
    ]
    for number, other in enumerate(others, 2):
        result = train(replace(other, lines=[]))
        assert result.path.name == f"mjesec_{number}.safetensors"
        assert f"mjesec.safetensors is of another run, so this one becomes {result.path.name}." in result.report
    assert first.path.read_bytes() == before
    assert all(train(replace(other, lines=[], parts=no_parts)).reused for other in others)


def test_another_caption_is_another_run(tmp_path: Path) -> None:
    dataset = scan_folder(str(tiny_parts.write_images(tmp_path / "images")))
    (tmp_path / "images" / "disc_0.txt").write_text("else")
    edited = scan_folder(str(tmp_path / "images"))
    assert run_id(SHORT, dataset, "base", "vae") != run_id(SHORT, edited, "base", "vae")


def test_a_file_that_is_no_lora_of_ours_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "loras").mkdir()
    (tmp_path / "loras" / "mjesec.safetensors").write_bytes(b"precious")
    assert run(tmp_path).path.name == "mjesec_2.safetensors"
    assert (tmp_path / "loras" / "mjesec.safetensors").read_bytes() == b"precious"


def test_an_epoch_file_of_an_unfinished_other_run_is_never_overwritten(tmp_path: Path) -> None:
    settings = make_settings(steps=6, save_every_epochs=1)
    with pytest.raises(Stop):
        run(tmp_path, settings, Log(stop_after=5))
    left = tmp_path / "loras" / "mjesec-000001.safetensors"
    before = left.read_bytes()
    other = run(tmp_path, replace(settings, seed=1))
    assert other.path.name == "mjesec_2.safetensors"
    # the file that is there is named, not one that is not
    assert f"{left.name} is of another run, so this one becomes mjesec_2.safetensors." in other.report
    assert left.read_bytes() == before
    assert run(tmp_path, settings).path.name == "mjesec.safetensors"


def test_files_that_only_look_like_epochs_are_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / "loras").mkdir()
    for name in ("mjesec-night.safetensors", "mjesec-00001.safetensors", "mjesec2-000001.safetensors"):
        (tmp_path / "loras" / name).write_bytes(b"another's")
    assert run(tmp_path).path.name == "mjesec.safetensors"


RUNS = {
    "adamw": make_settings(steps=5, schedule="cosine", warmup_steps=1, validation_images=1),
    "adafactor": make_settings(steps=5, optimizer="adafactor", adafactor_relative_step=True, latents="sample_once"),
}


@pytest.mark.parametrize("settings", RUNS.values(), ids=RUNS)
def test_an_interrupted_run_goes_on_and_ends_as_if_nothing_had_happened(
    tmp_path: Path, settings: TrainSettings
) -> None:
    straight = run(tmp_path / "straight", settings)
    for stop in (1, 4):
        log = Log(stop_after=stop)
        with pytest.raises(Stop):
            run(tmp_path / "stopped", settings, log)
        assert log.steps[-1].step == stop
        assert log.lines[-1] == f"Stopped after step {stop}; queue again to go on from there."
        assert files_in(tmp_path / "stopped" / "loras") == []
    resumed = run(tmp_path / "stopped", settings)
    assert "Going on from step 4 of 5." in resumed.report
    assert resumed.losses == straight.losses
    assert resumed.held_out == straight.held_out
    tiny_parts.assert_same(read_lora(resumed.path), read_lora(straight.path))
    assert files_in(tmp_path / "stopped" / "work" / "runs") == ["log.jsonl"]


@pytest.mark.parametrize("stage", ["held-out loss of the LoRA", "encoding images"])
def test_a_cancel_before_or_after_training_loses_nothing(tmp_path: Path, stage: str) -> None:
    settings = make_settings(steps=2, validation_images=1)
    stopped = Log(stop_at_stage=stage)
    with pytest.raises(Stop):
        run(tmp_path, settings, stopped)
    resumed = Log()
    run(tmp_path, settings, resumed)
    assert [step.step for step in [*stopped.steps, *resumed.steps]] == [1, 2]


def test_a_folder_that_is_gone_at_the_end_costs_no_step(tmp_path: Path) -> None:
    class Unplugging(Log):
        def step(self, step: Step) -> None:
            super().step(step)
            if step.step == SHORT.steps:
                (tmp_path / "loras").write_text("a file where the folder should be")

    with pytest.raises(LoraFileError, match=r"'mjesec\.safetensors' could not be written"):
        run(tmp_path, log=Unplugging())
    (tmp_path / "loras").unlink()
    log = Log()
    result = run(tmp_path, log=log)
    assert (log.steps, len(result.losses)) == ([], 3)


def test_an_error_before_the_first_step_leaves_no_state(tmp_path: Path) -> None:
    job = make_job(tmp_path, SHORT)
    with pytest.raises(Stop):
        train(replace(job, watcher=Log(stop_at_stage="encoding images")))
    assert files_in(tmp_path / "work" / "runs") == []


@pytest.mark.parametrize(
    ("saving", "expected"),
    [
        (SavingSettings(state_steps=2), [False, True, True]),
        (SavingSettings(state_seconds=0), [False, False, False]),
        (SavingSettings(state_seconds=300), [False, False, False]),
    ],
    ids=["every second step", "never", "every five minutes"],
)
def test_the_state_is_saved_as_often_as_asked(tmp_path: Path, saving: SavingSettings, expected: list[bool]) -> None:
    found: list[bool] = []

    class Looking(Log):
        def step(self, step: object) -> None:
            found.append("state.safetensors" in files_in(tmp_path / "work" / "runs"))

    run(tmp_path, replace(SHORT, saving=saving), Looking())
    assert found == expected


def test_the_state_is_saved_after_as_many_seconds_as_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, found = [0.0], []
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: now[0])

    class Waiting(Log):
        def step(self, step: Step) -> None:
            found.append("state.safetensors" in files_in(tmp_path / "work" / "runs"))
            now[0] += 100

    run(tmp_path, replace(SHORT, saving=SavingSettings(state_seconds=150)), Waiting())
    assert found == [False, False, True]


def test_lora_files_are_written_every_so_many_steps(tmp_path: Path) -> None:
    result = run(tmp_path, make_settings(steps=4, train="unet", saving=SavingSettings(lora_steps=2)))
    assert files_in(tmp_path / "loras") == ["mjesec-step00000002.safetensors", "mjesec.safetensors"]
    assert read_metadata(result.path.with_name("mjesec-step00000002.safetensors"))["ss_steps"] == "2"


def test_epoch_files_are_named_and_numbered_as_kohya_does(tmp_path: Path) -> None:
    result = run(tmp_path, make_settings(steps=10, save_every_epochs=1))
    # four images an epoch: epochs end at steps 4 and 8, and the run in the middle of the third
    assert files_in(tmp_path / "loras") == [
        "mjesec-000001.safetensors",
        "mjesec-000002.safetensors",
        "mjesec.safetensors",
    ]
    metadata = [read_metadata(path) for path in sorted((tmp_path / "loras").iterdir())]
    assert [(m["ss_steps"], m["ss_epoch"], m["ss_output_name"]) for m in metadata] == [
        ("4", "1", "mjesec-000001"),
        ("8", "2", "mjesec-000002"),
        ("10", "3", "mjesec"),
    ]
    earlier = read_lora(result.path.with_name("mjesec-000002.safetensors"))
    assert any(not torch.equal(tensor, earlier[name]) for name, tensor in read_lora(result.path).items())


def test_every_second_epoch_can_be_saved_and_the_last_is_the_file_itself(tmp_path: Path) -> None:
    run(tmp_path, make_settings(steps=16, save_every_epochs=2, train="unet"))
    assert files_in(tmp_path / "loras") == ["mjesec-000002.safetensors", "mjesec.safetensors"]


def spoil(job: Job, content_hash: str) -> Job:
    """A job whose VAE gives no numbers for one of its images."""
    encode = job.encode
    calls = iter(job.dataset.samples)

    def spoiled(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, std = encode(pixels)
        factor = FAR_TOO_LARGE if next(calls).content_hash == content_hash else 1.0
        return mean * factor, std

    return replace(job, encode=spoiled)


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_lora(tmp_path: Path) -> None:
    settings = make_settings(steps=4)
    good = Log(stop_after=2)
    with pytest.raises(Stop):
        run(tmp_path / "good", settings, good)
    job = make_job(tmp_path, settings)
    order = Plan(tiny_parts.make_examples(4), settings)
    third = job.dataset.samples[order.micro_batches(2)[0][0]]
    with pytest.raises(NonFiniteLoss) as caught:
        train(spoil(job, third.content_hash))
    assert str(caught.value).startswith("The loss is not a finite number at step 3: lower the learning rate")
    assert "The LoRA as of step 2 is kept in 'mjesec-step00000002.safetensors'." in str(caught.value)
    assert files_in(tmp_path / "loras") == ["mjesec-step00000002.safetensors"]
    kept = tmp_path / "loras" / "mjesec-step00000002.safetensors"
    assert read_metadata(kept)["ss_steps"] == "2"
    # the same two steps without the spoiled image
    finished = run(tmp_path / "two", replace(settings, steps=2))
    tiny_parts.assert_same(read_lora(kept), read_lora(finished.path))


def test_a_learning_rate_far_too_high_is_named_even_where_nothing_can_be_kept(tmp_path: Path) -> None:
    settings = make_settings(steps=9, unet_lr=1e30, text_lr=1e30, save_precision="fp16")
    with pytest.raises(NonFiniteLoss, match="at step 2: lower the learning rate") as caught:
        run(tmp_path, settings)
    assert "The LoRA as of step 1 could not be kept" in str(caught.value)
    assert files_in(tmp_path / "loras") == []


def test_a_loss_that_is_no_number_at_once_leaves_no_file(tmp_path: Path) -> None:
    job = make_job(tmp_path, SHORT)
    broken = replace(job, encode=lambda pixels: tuple(t * FAR_TOO_LARGE for t in tiny_parts.encode(pixels)))
    with pytest.raises(NonFiniteLoss, match="at step 1:"):
        train(broken)
    assert files_in(tmp_path / "loras") == []


@pytest.mark.parametrize(
    ("given", "cure"),
    [
        ({"precision": "fp32"}, "lower the learning rate."),
        ({"precision": "fp16"}, "lower the learning rate, or train in bf16 or fp32 instead of fp16."),
        (
            {"optimizer": "adafactor", "adafactor_relative_step": True},
            "choose another optimizer, or give Adafactor a learning rate without relative_st",
        ),
    ],
    ids=["fp32", "fp16", "adafactor"],
)
def test_what_is_said_against_a_loss_that_is_no_number_can_help(
    tmp_path: Path, given: dict[str, object], cure: str
) -> None:
    job = make_job(tmp_path, make_settings(steps=3, **given))
    broken = replace(job, encode=lambda pixels: tuple(t * FAR_TOO_LARGE for t in tiny_parts.encode(pixels)))
    with pytest.raises(NonFiniteLoss) as caught:
        train(broken)
    assert f"at step 1: {cure}" in str(caught.value)


@pytest.mark.parametrize("which", ["loras", "work"])
def test_a_folder_that_cannot_be_written_to_ends_the_run_before_it_costs_time(tmp_path: Path, which: str) -> None:
    (tmp_path / which).symlink_to(tmp_path / "unplugged" / "drive", target_is_directory=True)
    log = Log()
    with pytest.raises(LoraFileError, match=rf"Nothing can be written to '.*{which}.*see that the folder, or what it"):
        run(tmp_path, log=log)
    assert log.stages == []


def test_held_out_images_are_measured_before_and_after_and_never_trained_on(tmp_path: Path) -> None:
    settings = make_settings(steps=3, validation_images=2)
    log = Log()
    result = run(tmp_path, settings, log)
    base, tuned = result.held_out
    assert 0 < tuned != base > 0
    assert f"Held-out loss: base {base:.5f}, with the LoRA {tuned:.5f}, ratio {tuned / base:.3f}." in log.lines
    assert "3 steps of 1 image: 1.50 epochs of 2 steps." in log.lines
    assert log.stages.count("held-out loss of the base") == log.stages.count("held-out loss of the LoRA") == 2


def test_the_held_out_loss_of_the_base_does_not_depend_on_the_training(tmp_path: Path) -> None:
    losses = [
        run(tmp_path, make_settings(steps=1, validation_images=1, **changes)).held_out[0]
        for changes in ({}, {"unet_lr": 1e-2, "rank": 8, "batch_size": 3})
    ]
    # batches of another size are the same sums in another order
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("count", [4, 5])
def test_holding_out_every_image_is_refused(tmp_path: Path, count: int) -> None:
    with pytest.raises(DatasetError, match=f"validation_images is {count}, but the dataset has 4 images"):
        run(tmp_path, make_settings(validation_images=count))


def test_rates_that_adafactor_ignores_are_named(tmp_path: Path) -> None:
    settings = replace(RUNS["adafactor"], steps=1, warmup_steps=1, schedule="cosine")
    report = run(tmp_path, settings).report
    assert "the learning rates 0.001 (U-Net) and 0.001 (text encoders) never touch a weight" in report
    assert "the schedule cosine and its 1 warm-up steps do nothing" in report


def test_images_of_several_sizes_train_in_one_run(tmp_path: Path) -> None:
    tiny_parts.write_images(tmp_path / "images", count=2)
    for index, size in enumerate([(160, 64), (64, 128)]):
        tiny_parts.Image.new("RGB", size, (40 * index, 90, 30)).save(tmp_path / "images" / f"wide_{index}.png")
    result = run(tmp_path, make_settings(steps=4, batch_size=2, buckets=BucketSettings((96, 96), step=32)))
    assert len(result.losses) == 4
    assert all(math.isfinite(loss) for loss in result.losses)


class Overflowing(torch.amp.GradScaler):
    """The gradients of the first steps are infinite, as those of a loss that is scaled too high."""

    first = 2

    def __init__(self, device: str, enabled: bool) -> None:
        # from here on no gradient of the tiny networks overflows by itself
        super().__init__(device, init_scale=1024.0, enabled=enabled)
        self.calls = 0

    def scale(self, outputs: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return super().scale(outputs * math.inf if self.calls <= self.first else outputs)


def test_steps_that_overflow_fp16_are_reported_and_change_no_weight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings(steps=4, precision="fp16", saving=SavingSettings(lora_steps=1))
    monkeypatch.setattr(torch.amp, "GradScaler", Overflowing)
    log = Log()
    result = run(tmp_path / "overflowing", settings, log)
    assert [(step.step, step.taken) for step in log.steps] == [(1, False), (2, False), (3, True), (4, True)]
    assert "2 steps overflowed fp16 and were counted but not taken." in result.report
    moved = [
        any(tensor.any() for name, tensor in read_lora(path).items() if name.endswith("lora_up.weight"))
        for path in (result.path.with_name(f"mjesec-step0000000{step}.safetensors") for step in (1, 2, 3))
    ]
    assert moved == [False, False, True]
    monkeypatch.setattr(Overflowing, "first", 0)
    assert "overflowed" not in run(tmp_path / "clean", settings).report


def test_neither_the_files_name_nor_what_is_saved_on_the_way_is_part_of_the_run(tmp_path: Path) -> None:
    dataset = scan_folder(str(tiny_parts.write_images(tmp_path / "images")))
    saving = SavingSettings(state_steps=1, lora_steps=1)
    measured = {"validation": ValidationSettings(every=1), "validation_images": 1}
    first, renamed, safer, longer, watched = (
        run_id(replace(SHORT, **changes), dataset, "base", "vae")
        for changes in ({}, {"output_name": "other"}, {"saving": saving}, {"steps": 9}, measured)
    )
    assert first == renamed == safer
    assert len({first, longer, watched}) == 3


def test_a_run_is_the_same_wherever_its_images_lie(tmp_path: Path) -> None:
    ids = {
        run_id(SHORT, scan_folder(str(tiny_parts.write_images(tmp_path / place))), "base", "vae")
        for place in ("a", "b")
    }
    assert len(ids) == 1


def test_a_fingerprint_depends_on_every_name_shape_type_and_byte() -> None:
    state = {"a": torch.arange(6.0), "b": torch.ones(2, 3, dtype=torch.bfloat16)}
    changed = [
        {**state, "a": state["a"].view(2, 3)},
        {**state, "a": state["a"].half()},
        {**state, "a": torch.arange(6.0).index_fill(0, torch.tensor(3), 3.0000002)},
        {"a": state["a"], "c": state["b"]},
    ]
    prints = [weights_fingerprint(other) for other in [state, *changed]]
    assert len(set(prints)) == len(prints)
    assert weights_fingerprint(dict(reversed(state.items()))) == prints[0]
    assert weights_fingerprint({**state, "a": torch.arange(12.0)[::2] / 2}) == prints[0]
