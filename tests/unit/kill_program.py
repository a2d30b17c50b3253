"""Trainings that end their own process with SIGKILL, nothing else: `python kill_program.py PLACE=ROOT …`.

PLACE: `step3` once step 3 is finished, `write2` when half of the second state is on the disk, `window3` in step 3
between two micro-batches. One process loads the libraries, a fork of it trains for each place; each must be killed.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    spec = importlib.util.spec_from_file_location("conftest", Path(__file__).parent.parent / "conftest.py")
    spec.loader.exec_module(importlib.util.module_from_spec(spec))

from pack.trainer.runs.run import Job, train
from pack.trainer.sdxl.parts import Parts
from pack.trainer.settings.run_options import SavingSettings
from pack.trainer.training.loop import Step
from tiny_parts import Log, make_job, make_settings

ACCUMULATION = 3
SETTINGS = make_settings(
    steps=7,
    train="unet",
    gradient_accumulation=ACCUMULATION,
    schedule="cosine",
    warmup_steps=2,
    save_every_epochs=2,
    saving=SavingSettings(state_steps=2, tensorboard=False),
)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class DyingAfterStep(Log):
    def __init__(self, last: int) -> None:
        super().__init__()
        self.last = last

    def step(self, step: Step) -> None:
        if step.step == self.last:
            die()


def die_in_write(number: int) -> None:
    """Lets the disk have half of the `number`-th state."""
    flush, seen = os.fsync, 0

    def flush_half(handle: int) -> None:
        nonlocal seen
        if os.readlink(f"/proc/self/fd/{handle}").endswith(".part") and "state" in os.readlink(
            f"/proc/self/fd/{handle}"
        ):
            seen += 1
            if seen == number:
                os.ftruncate(handle, os.fstat(handle).st_size // 2)
                die()
        flush(handle)

    os.fsync = flush_half


def die_in_window(job: Job, step: int) -> Job:
    """Dies before the last micro-batch of a step: gradients of the others are there, and no update."""

    def parts() -> Parts:
        made, calls = job.parts(), 0

        def before(module: Any, inputs: Any) -> None:
            nonlocal calls
            calls += 1
            # four images: an epoch has steps of three micro-batches and of one, in turns
            if calls == (step // 2) * 4 + ACCUMULATION:
                die()

        made.unet.register_forward_pre_hook(before)
        return made

    return replace(job, parts=parts)


def train_and_die(place: str, root: Path) -> None:
    kind, number = place.rstrip("0123456789"), int(place.lstrip("abcdefghijklmnopqrstuvwxyz"))
    job = make_job(root, SETTINGS, DyingAfterStep(number) if kind == "step" else None)
    if kind == "write":
        die_in_write(number)
    train(die_in_window(job, number) if kind == "window" else job)


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        place, _, root = argument.partition("=")
        if (child := os.fork()) == 0:
            train_and_die(place, Path(root))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(place, os.WTERMSIG(status) if os.WIFSIGNALED(status) else f"exit {os.WEXITSTATUS(status)}", flush=True)
