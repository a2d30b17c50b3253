"""Training settings: what is refused and in which words, and what the two presets are."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, fields

import pytest
from pack.trainer.dataset.buckets import BucketSettings
from pack.trainer.errors import SettingsError
from pack.trainer.settings.options import (
    AdapterSettings,
    CaptionSettings,
    EmaSettings,
    ImageSettings,
    LossSettings,
    OptimizerSettings,
)
from pack.trainer.settings.run_options import SavingSettings, ValidationSettings
from pack.trainer.settings.training import MAX_SEED, TrainSettings, check_output_name, thesis_settings

NAN, INFINITE = math.nan, math.inf

# changes to the defaults, and what the sentence must name
BAD = [
    ({"steps": 0}, ["steps", "0"]),
    ({"steps": -5}, ["steps", "-5"]),
    ({"steps": 2.5}, ["steps", "2.5"]),
    ({"steps": True}, ["steps", "True"]),
    ({"batch_size": 0}, ["batch_size", "0"]),
    ({"gradient_accumulation": 0}, ["gradient_accumulation", "0"]),
    ({"rank": 0}, ["rank", "0"]),
    ({"rank": -1}, ["rank", "-1"]),
    ({"alpha": 0.0}, ["alpha", "0"]),
    ({"alpha": -1.0}, ["alpha", "-1.0"]),
    ({"alpha": NAN}, ["alpha", "nan"]),
    ({"unet_lr": -1e-4}, ["unet_lr", "-0.0001"]),
    ({"unet_lr": NAN}, ["unet_lr", "nan"]),
    ({"unet_lr": INFINITE}, ["unet_lr", "inf"]),
    ({"text_lr": -1.0}, ["text_lr", "-1.0"]),
    ({"text_lr": NAN}, ["text_lr", "nan"]),
    ({"weight_decay": -0.1}, ["weight_decay", "-0.1"]),
    ({"max_grad_norm": -1.0}, ["max_grad_norm", "-1.0"]),
    ({"max_grad_norm": NAN}, ["max_grad_norm", "nan"]),
    ({"warmup_steps": -1}, ["warmup_steps", "-1"]),
    ({"warmup_steps": 11, "steps": 10}, ["warmup_steps", "11", "10"]),
    ({"save_every_epochs": -1}, ["save_every_epochs", "-1"]),
    ({"validation_images": -1}, ["validation_images", "-1"]),
    ({"seed": -1}, ["seed", "-1"]),
    ({"seed": MAX_SEED + 1}, ["seed", str(MAX_SEED + 1)]),
    ({"optimizer": "sgd"}, ["optimizer", "'sgd'", "adamw", "torch.optim.RAdam"]),
    ({"optimizer": "os.system"}, ["optimizer", "'os.system'", "pytorch_optimizer"]),
    ({"optimizer": "torch.optim.lr_scheduler.LRScheduler"}, ["optimizer", "lr_scheduler"]),
    ({"optimizer": "prodigy"}, ["Prodigy", "0.0001", "5e-05"]),
    (
        {"optimizer_options": OptimizerSettings(lora_plus_ratio=4.0), "adapter": AdapterSettings(kind="lokr")},
        ["lora_plus_ratio", "lokr"],
    ),
    ({"schedule": "rex"}, ["schedule", "'rex'", "cosine"]),
    ({"schedule": "piecewise_constant"}, ["piecewise_constant", "step_rules"]),
    ({"precision": "int8"}, ["precision", "'int8'", "bf16"]),
    ({"save_precision": "fp64"}, ["save_precision", "'fp64'", "fp16"]),
    ({"train": "text"}, ["train", "'text'", "unet+text"]),
    ({"latents": "mean"}, ["latents", "'mean'", "resample"]),
    ({"base_storage": "int4"}, ["base_storage", "'int4'", "fp8"]),
    ({"told_crop": "false"}, ["told_crop", "'false'", "kohya"]),
    ({"unet_lr": 0.0, "text_lr": 0.0}, ["learning rate", "0"]),
    ({"unet_lr": 0.0, "train": "unet"}, ["learning rate", "0"]),
    ({"adafactor_relative_step": True}, ["adafactor_relative_step", "'adamw'"]),
]


@pytest.mark.parametrize(("changes", "named"), BAD, ids=[str(changes) for changes, _ in BAD])
def test_a_value_that_cannot_work_is_refused_by_field_and_value(changes: dict[str, object], named: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        TrainSettings(**changes)
    for words in named:
        assert words in str(caught.value)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize(
    "name",
    [
        "", " ", ".", "..", "../mjesec", "a/b", "a\\b", "/a", "C:a", "a\0b", "a\nb", ".hidden", "ends.", " a",
        "a ", "con", "NUL.x", "lpt1", "a" * 121, "mjesec.safetensors", "mjesec.SafeTensors", "\u6708" * 90, "a?", "a*",
    ],
)  # fmt: skip
def test_an_output_name_that_is_no_plain_file_name_is_refused_and_quoted(name: str) -> None:
    with pytest.raises(SettingsError) as caught:
        TrainSettings(output_name=name)
    assert f"'{name}'" in str(caught.value)


@pytest.mark.parametrize(
    "name", ["mjesec", "Moon v1.2", "moon-xl", "\u6708\u4eae", "Mjese\u010dina", "console", "a" * 120]
)
def test_a_plain_file_name_is_accepted_in_any_language(name: str) -> None:
    check_output_name(name)


@pytest.mark.parametrize(
    "changes",
    [
        {"unet_lr": 0.0},
        {"text_lr": 0.0, "train": "unet"},
        {"max_grad_norm": 0.0},
        {"warmup_steps": 10, "steps": 10},
        {"seed": MAX_SEED},
        {"alpha": 1},
        {"optimizer": "adafactor", "adafactor_relative_step": True, "unet_lr": 0.0, "text_lr": 0.0},
        {"images": ImageSettings(alpha_background=None)},
    ],
    ids=str,
)
def test_unusual_values_that_do_work_are_accepted(changes: dict[str, object]) -> None:
    settings = TrainSettings(**changes)
    assert all(getattr(settings, name) == value for name, value in changes.items())


def test_settings_never_change_once_made() -> None:
    with pytest.raises(FrozenInstanceError):
        TrainSettings().steps = 5  # type: ignore[misc]


def test_the_dictionary_holds_every_field_as_a_plain_value() -> None:
    settings = TrainSettings(buckets=BucketSettings(resolution=(512, 768)))
    plain = settings.as_dict()
    assert set(plain) == {field.name for field in fields(settings)}
    assert plain["buckets"]["resolution"] == (512, 768)


def test_the_scale_is_alpha_over_rank() -> None:
    assert TrainSettings(rank=32, alpha=8.0).scale == 0.25


# what the thesis's config.toml says and what kohya_ss v24.1.6 did with it
THESIS = {
    "steps": 1600,
    "batch_size": 1,
    "gradient_accumulation": 1,
    "train": "unet+text",
    "rank": 32,
    "alpha": 8.0,
    "optimizer": "adafactor",
    "adafactor_relative_step": True,
    "unet_lr": 1e-4,
    "text_lr": 1e-4,
    "weight_decay": 0.0,
    "schedule": "constant",
    "warmup_steps": 0,
    "max_grad_norm": 1.0,
    "precision": "fp16",
    "save_precision": "fp16",
    "gradient_checkpointing": False,
    "latents": "sample_once",
    "told_crop": "kohya",
    "base_storage": "as given",
    "save_every_epochs": 1,
    "validation_images": 0,
    "output_name": "mjesec",
    "images": ImageSettings(exif_rotate=False, alpha_background=None),
    "adapter": AdapterSettings(),
    "optimizer_options": OptimizerSettings(),
    "loss": LossSettings(),
    "captions": CaptionSettings(keep_separator=""),
    "ema": EmaSettings(),
    "memory_profile": "auto",
    "compile_blocks": False,
    "cuda_graphs": True,
    "validation": ValidationSettings(),
    "saving": SavingSettings(),
    "buckets": BucketSettings((1024, 1024), 256, 2048, 64, no_upscale=True, enabled=True),
}


def test_the_thesis_preset_is_the_thesis_run() -> None:
    settings = thesis_settings()
    assert {name: getattr(settings, name) for name in THESIS} == THESIS
    # its seed is not in the config: any will do
    assert set(THESIS) | {"seed"} == {field.name for field in fields(settings)}


def test_single_fields_of_the_thesis_preset_can_be_changed() -> None:
    settings = thesis_settings(steps=4, buckets=BucketSettings((256, 256)))
    assert (settings.steps, settings.buckets.resolution, settings.alpha) == (4, (256, 256), 8.0)


@pytest.mark.parametrize("name", ["prodigy", "pytorch_optimizer.Prodigy", "pytorch_optimizer.DAdaptAdam"])
def test_who_finds_its_own_rate_takes_one_for_all_and_no_lora_plus(name: str) -> None:
    with pytest.raises(SettingsError, match=r"gives all parts one rate, but the learning rates are 1, 0\.5"):
        TrainSettings(optimizer=name, unet_lr=1.0, text_lr=0.5, train="unet+text")
    options = OptimizerSettings(lora_plus_ratio=16.0)
    with pytest.raises(SettingsError, match="lora_plus_ratio has no effect; set it to 1"):
        TrainSettings(optimizer=name, unet_lr=1.0, text_lr=1.0, optimizer_options=options)


def test_adafactors_own_rates_leave_no_room_for_lora_plus() -> None:
    with pytest.raises(SettingsError, match="adafactor_relative_step sets its own rates, so that lora_plus_ratio"):
        thesis_settings(optimizer_options=OptimizerSettings(lora_plus_ratio=16.0))


def test_a_warm_up_that_the_schedule_does_not_have_is_refused() -> None:
    options = OptimizerSettings(step_rules="1:10,0.1")
    with pytest.raises(SettingsError, match="piecewise_constant has no warm-up"):
        TrainSettings(schedule="piecewise_constant", warmup_steps=10, optimizer_options=options)
