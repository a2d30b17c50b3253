"""A run's state on disk: adapters, optimizer, schedule, scaler and how far it got. safetensors, never pickle."""

from __future__ import annotations

import json
from bisect import bisect
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ..errors import LoraFileError
from ..files import write_atomically
from .bands import validation_of
from .loop import Progress, Trainer
from .tree import flatten, restore

_CURE = "delete it and the run starts anew."
_NEEDED = {"step", "seconds", "skipped", "losses", "validations", "optimizer", "schedule", "scaler"}


def save_state(path: Path, trainer: Trainer, run: str) -> None:
    """Write everything from which ``load_state`` can go on; random numbers need no state, they follow from the step.

    Raises:
        LoraFileError: the file could not be written; an earlier state is as it was.
    """
    tensors = {f"adapter.{name}": t for name, t in trainer.adapters.tensors().items()}
    if trainer.mean is not None:
        tensors |= {f"mean.{number}": value for number, value in enumerate(trainer.mean.values)}
    optimizer = flatten(_optimizer_state(trainer.optimizer), "optimizer", tensors)
    facts = {
        "run": run,
        "save_precision": trainer.settings.save_precision,
        "step": trainer.progress.step,
        "seconds": trainer.progress.seconds,
        "skipped": trainer.progress.skipped,
        "losses": trainer.progress.losses,
        "validations": [validation.as_plain() for validation in trainer.progress.validations],
        "optimizer": optimizer,
        "schedule": _plain_schedule(trainer),
        "scaler": trainer.scaler.state_dict(),
    }
    tensors = _apart(tensors)
    metadata = {"mjesec": json.dumps(facts)}
    write_atomically(path, lambda scratch: save_file(tensors, scratch, metadata=metadata))


def load_state(path: Path, trainer: Trainer, run: str) -> bool:
    """Put a saved state into a fresh trainer of the same run; False where there is none.

    Of several processes the main one reads, and all get what it read.

    Raises:
        LoraFileError: the file is damaged or of another run.
    """
    processes, read = trainer.processes, {}

    def facts_in_file() -> dict[str, Any] | None:
        if not path.exists():
            return None
        facts, tensors = _read(path, run)
        read.update(tensors)
        return facts

    if (facts := processes.from_main(facts_in_file)) is None:
        return False
    tensors = processes.tensors_from_main(read)
    if not _fits(trainer, tensors, facts):
        raise _damaged(path)
    with torch.no_grad():
        for name, weight in trainer.adapters.tensors().items():
            weight.copy_(tensors[f"adapter.{name}"])
        if trainer.mean is not None:
            for number, value in enumerate(trainer.mean.values):
                value.copy_(tensors[f"mean.{number}"])
    _load_optimizer(trainer.optimizer, restore(facts["optimizer"], tensors))
    if trainer.schedule is not None:
        trainer.schedule.load_state_dict(facts["schedule"])
        for group, rate in zip(trainer.optimizer.param_groups, trainer.schedule.get_last_lr(), strict=True):
            group["lr"] = rate
    trainer.scaler.load_state_dict(facts["scaler"])
    validations = [validation_of(plain) for plain in facts["validations"]]
    trainer.progress = Progress(facts["step"], facts["losses"], facts["skipped"], validations, facts["seconds"])
    return True


def precision_of(path: Path) -> str | None:
    """The precision of the file that the run of a state was to write; None where the state does not tell."""
    try:
        with safe_open(path, framework="pt") as file:
            told = json.loads(file.metadata()["mjesec"])["save_precision"]
    except Exception:
        return None
    return told if isinstance(told, str) else None


def _read(path: Path, run: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """What is in a state's file beside its tensors, and these."""
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads(file.metadata()["mjesec"])
            # copied: an optimizer that held on to the file itself would keep Windows from replacing it
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - no mapping
    except Exception as error:
        raise _damaged(path) from error
    if facts.get("run") != run:
        raise LoraFileError(f"The saved state '{path}' is of another run; {_CURE}")
    return facts, tensors


def _damaged(path: Path) -> LoraFileError:
    return LoraFileError(f"The saved state '{path}' is damaged; {_CURE}")


def _fits(trainer: Trainer, tensors: dict[str, torch.Tensor], facts: dict[str, object]) -> bool:
    wanted = {f"adapter.{name}": weight.shape for name, weight in trainer.adapters.tensors().items()}
    held = {name: tensor.shape for name, tensor in tensors.items() if name.startswith("adapter.")}
    means = 0 if trainer.mean is None else len(trainer.mean.values)
    if sum(name.startswith("mean.") for name in tensors) != means:
        return False
    return held == wanted and facts.keys() >= _NEEDED


def _optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, object]:
    """State and groups. Groups count too: Prodigy and the schedule-free optimizers keep their estimates there."""
    held = optimizer.state_dict()
    groups = [{k: v for k, v in group.items() if k not in ("params", "name")} for group in held["param_groups"]]
    return {"state": held["state"], "groups": groups}


def _load_optimizer(optimizer: torch.optim.Optimizer, held: dict[str, object]) -> None:
    groups = optimizer.state_dict()["param_groups"]
    merged = [{**own, **saved} for own, saved in zip(groups, held["groups"], strict=True)]
    optimizer.load_state_dict({"state": held["state"], "param_groups": merged})


def _apart(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """On the CPU, none in the memory of another: 8-bit optimizers share one table among all weights."""
    taken: list[tuple[int, int]] = []
    out = {}
    for name, tensor in tensors.items():
        moved = tensor.detach().cpu().contiguous()
        span = moved.data_ptr(), moved.data_ptr() + moved.nbytes
        place = bisect(taken, span)
        before, after = taken[max(place - 1, 0) : place], taken[place : place + 1]
        if any(span[0] < end for _, end in before) or any(start < span[1] for start, _ in after):
            moved = moved.clone()
        else:
            taken.insert(place, span)
        out[name] = moved
    return out


def _plain_schedule(trainer: Trainer) -> dict[str, object]:
    if trainer.schedule is None:
        return {}
    held = trainer.schedule.state_dict()
    return {k: v for k, v in held.items() if isinstance(v, int | float | list | bool)}
