"""A run that is interrupted and goes on must be the run that was never interrupted, to the last bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny_parts
import torch
from pack.trainer.errors import LoraFileError
from pack.trainer.settings.options import OptimizerSettings
from pack.trainer.settings.training import TrainSettings
from pack.trainer.training.loop import Trainer
from pack.trainer.training.state import load_state, save_state
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_parts import make_settings, make_trainer, weights_of

STEPS = 5
RUNS = {
    "adamw and cosine": {"optimizer": "adamw", "schedule": "cosine", "warmup_steps": 2},
    "bf16, adamw and LoRA+": {
        "optimizer": "adamw",
        "precision": "bf16",
        "optimizer_options": OptimizerSettings(lora_plus_ratio=4.0),
    },
    "bf16, one caption at a time, whose keys are kept": {"precision": "bf16", "train": "unet", "batch_size": 1},
    "adafactor with its own rates": {"optimizer": "adafactor", "adafactor_relative_step": True},
    "fp16, accumulation, adafactor and cosine": {
        "optimizer": "adafactor",
        "precision": "fp16",
        "gradient_accumulation": 2,
        "schedule": "cosine",
    },
    "adafactor with rates given": {"optimizer": "adafactor", "schedule": "linear"},
    "prodigy, whose estimate lies in the groups": {"optimizer": "prodigy", "unet_lr": 1.0, "text_lr": 1.0},
    "lion": {"optimizer": "lion", "schedule": "cosine_with_restarts"},
    "came": {"optimizer": "came", "schedule": "polynomial"},
    "schedule-free": {"optimizer": "schedulefree", "warmup_steps": 2},
    "a class by name with arguments": {
        "optimizer": "torch.optim.RMSprop",
        "optimizer_options": OptimizerSettings(arguments="momentum=0.5, centered=True", lora_plus_ratio=4.0),
    },
}


def take(trainer: Trainer, steps: int) -> Trainer:
    for _ in range(steps):
        trainer.step()
    return trainer


def settings_of(name: str) -> TrainSettings:
    return make_settings(steps=STEPS, **RUNS[name])


def outcome(trainer: Trainer) -> dict[str, object]:
    """Everything that two equal runs share at their end."""
    held = trainer.optimizer.state_dict()["state"]
    return {
        "weights": weights_of(trainer),
        "optimizer": {f"{i}.{key}": torch.as_tensor(value) for i, of in held.items() for key, value in of.items()},
        "progress": trainer.progress,
        "scaler": trainer.scaler.state_dict(),
        "groups": [{k: v for k, v in g.items() if k != "params"} for g in trainer.optimizer.param_groups],
    }


@pytest.mark.parametrize("name", RUNS)
def test_a_resumed_run_equals_the_straight_one_to_the_last_bit(name: str, tmp_path: Path) -> None:
    settings, path = settings_of(name), tmp_path / "state.safetensors"
    straight = outcome(take(make_trainer(settings), STEPS))
    # stopped after the first step and once more later; an epoch is of four images
    stopped = take(make_trainer(settings), 1)
    for until in (3, STEPS):
        save_state(path, stopped, "run")
        resumed = make_trainer(settings)
        assert load_state(path, resumed, "run")
        assert resumed.progress == stopped.progress
        stopped = take(resumed, until - resumed.progress.step)
    resumed_outcome = outcome(stopped)
    for kind in ("weights", "optimizer"):
        tiny_parts.assert_same(resumed_outcome.pop(kind), straight.pop(kind))
    assert resumed_outcome == straight


@pytest.fixture
def trainer() -> Trainer:
    return take(make_trainer(settings_of("adamw and cosine")), 1)


def test_without_a_saved_state_a_run_starts_anew(trainer: Trainer, tmp_path: Path) -> None:
    assert load_state(tmp_path / "none.safetensors", trainer, "run") is False


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def another_format(path: Path) -> None:
    path.write_bytes(b"something else entirely" * 100)


def no_facts(path: Path) -> None:
    save_file({"a": torch.ones(1)}, path)


def rewrite(path: Path, drop: str = "", shape: str = "", **facts: object) -> None:
    with safe_open(path, framework="pt") as file:
        held = json.loads(file.metadata()["mjesec"])
        tensors = {name: file.get_tensor(name) for name in file.keys() if not drop or not name.startswith(drop)}  # noqa: SIM118
    for name in [name for name in tensors if shape and name.startswith(shape)]:
        tensors[name] = torch.ones(3, 5)
    held = {key: value for key, value in {**held, **facts}.items() if value is not None}
    save_file(tensors, path, metadata={"mjesec": json.dumps(held)})


def no_adapter(path: Path) -> None:
    rewrite(path, drop="adapter.lora_unet_middle_block_1_proj_in")


def adapter_of_another_rank(path: Path) -> None:
    rewrite(path, shape="adapter.lora_unet_middle_block_1_proj_in")


def no_step(path: Path) -> None:
    rewrite(path, step=None)


@pytest.mark.parametrize(
    "damage", [cut_short, emptied, another_format, no_facts, no_adapter, adapter_of_another_rank, no_step]
)
def test_a_damaged_state_is_refused_in_one_sentence_with_the_cure(
    damage: object, trainer: Trainer, tmp_path: Path
) -> None:
    path = tmp_path / "state.safetensors"
    save_state(path, trainer, "run")
    damage(path)
    with pytest.raises(LoraFileError, match="is damaged; delete it and the run starts anew") as caught:
        load_state(path, trainer, "run")
    assert str(path) in str(caught.value)


def test_the_state_of_another_run_is_refused(trainer: Trainer, tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    save_state(path, trainer, "run")
    before = weights_of(trainer)
    with pytest.raises(LoraFileError, match="is of another run; delete it and the run starts anew"):
        load_state(path, trainer, "other")
    tiny_parts.assert_same(weights_of(trainer), before)


def test_a_state_is_replaced_whole_and_leaves_nothing_beside_it(trainer: Trainer, tmp_path: Path) -> None:
    path = tmp_path / "runs" / "state.safetensors"
    for _ in range(2):
        save_state(path, trainer, "run")
    assert list(path.parent.iterdir()) == [path]
