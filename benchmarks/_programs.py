"""A trainer that is a program of its own, run on a temporary folder with Moons to train on."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import dev

if TYPE_CHECKING:
    from _contenders import ProgramTrainer


class Program:
    """Its process, from its start to its end; what it prints goes into the file `log`."""

    def __init__(
        self, trainer: ProgramTrainer, checkpoint: Path, size: int, steps: int, device: str, images: int
    ) -> None:
        self._trainer = trainer
        self._given = checkpoint, size, steps, device
        self._images = images

    def __enter__(self) -> Program:
        from pack.trainer.moons.folder import render_moons

        self._stack = contextlib.ExitStack()
        work = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="mjesec-bench-")))
        render_moons(work / "data" / "10_moon", self._images, self._given[1], seed=1)
        self.log = work / "log"
        output = self._stack.enter_context(self.log.open("wb"))
        command = self._trainer.command(*self._given, work)
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, env=environment,
            cwd=Path(command[1]).parent,
        )  # fmt: skip
        self._stack.callback(self._process.wait)
        self._stack.callback(self._process.kill)
        self.pid = self._process.pid
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def wait_for(self, words: str) -> None:
        """Wait until it has printed ``words``.

        Raises:
            dev.Failure: it ended without.
        """
        while words not in self.log.read_text(encoding="utf-8", errors="replace"):
            if self._process.poll() is not None:
                raise dev.Failure(f"{self._trainer.name} ended without '{words}'; it printed:\n{dev.tail(self.log)}")
            time.sleep(0.02)

    def go_on(self) -> None:
        """Send it a line, which it may be waiting for."""
        with contextlib.suppress(OSError):
            self._process.stdin.write(b"\n")  # type: ignore[union-attr]
            self._process.stdin.flush()  # type: ignore[union-attr]

    def wait(self) -> None:
        """Wait for its end.

        Raises:
            dev.Failure: it failed.
        """
        if code := self._process.wait():
            raise dev.Failure(f"{self._trainer.name} failed (exit code {code}); it printed:\n{dev.tail(self.log)}")
