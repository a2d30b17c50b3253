"""A run on the console: progress, speed, loss and time left."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TextIO

from ..clock import clock
from ..training.loop import Step

_EVERY_SECONDS = 2.0


class ConsoleWatcher:
    """Writes a line every two seconds at most, and every line that a run says."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stdout
        self._stage, self._began, self._spoke, self._ended = "", 0.0, -_EVERY_SECONDS, False

    def stage(self, name: str, done: int, total: int) -> None:
        now = time.monotonic()
        if name != self._stage:
            self._stage, self._began, self._ended = name, now, False
        spent = now - self._began
        # the first item stands at the beginning of the clock
        rate = (done - 1) / spent if spent and done > 1 else 0.0
        left = f", {rate:.2f}/s, {clock((total - done) / rate)} left" if rate else ""
        # a stage may end in several pieces
        last, self._ended = done == total and not self._ended, done == total
        self._tell(f"{name}: {done}/{total}{left}", last=last)

    def step(self, step: Step) -> None:
        rate = 1 / max(step.seconds_per_step, 1e-9)
        speed = f"{rate:.2f} steps/s" if rate >= 1 else f"{step.seconds_per_step:.2f} s/step"
        rates = ", ".join(f"lr {name} {value:.2e}" for name, value in step.rates.items())
        told = f"step {step.step}/{step.steps}, loss {step.loss:.4f}, {speed}, {clock(step.eta)} left, {rates}"
        self._tell(told, last=step.step == step.steps)

    def say(self, line: str) -> None:
        # a terminal that was closed, or a full disk under a log, is no reason to lose a training
        with contextlib.suppress(OSError):
            print(line, file=self.stream, flush=True)

    def _tell(self, line: str, *, last: bool) -> None:
        now = time.monotonic()
        if last or now - self._spoke >= _EVERY_SECONDS:
            self._spoke = now
            self.say(line)


class SilentWatcher:
    """For processes beside the one that speaks."""

    def stage(self, name: str, done: int, total: int) -> None:
        """Says nothing."""

    def step(self, step: Step) -> None:
        """Says nothing."""

    def say(self, line: str) -> None:
        """Says nothing."""
