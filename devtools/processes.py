"""Running other programs: a step of the set-up, a program in our terminal, a tree of processes; reading logs."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .base import ROOT, WINDOWS, Failure, say
from .cache import cache_folder

# a folder in the cache
BYTECODE = "bytecode"
# paths of other interpreters' libraries; and a wish that would have all of torch's modules compiled at every start
_UNWANTED = ("PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE")


def clean_environment() -> dict[str, str]:
    """The environment for the interpreters we start: their own libraries, UTF-8, unbuffered, no downloads.

    Their bytecode lies in the cache, so that none is written beside anybody's sources.
    """
    environment = {k: v for k, v in os.environ.items() if k not in _UNWANTED}
    environment.update(PYTHONUNBUFFERED="1", PYTHONUTF8="1", HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")
    environment.setdefault("PYTHONPYCACHEPREFIX", str(cache_folder(os.environ) / BYTECODE))
    return environment


def tail(path: Path, lines: int = 20) -> str:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return "\n".join(plain_lines(text)[-lines:])


def plain_lines(text: str) -> list[str]:
    """Lines of a log without colours; progress bars that return the carriage count as lines."""
    return [line for line in re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;]*m", "", text)) if line.strip()]


def run_step(what: str, command: Sequence[str | Path], cure: str, log: Path) -> None:
    """Runs one step of the set-up: output into `log`, a sign of life every 15 s, one clear Failure."""
    say(f"{what} ...")
    log.parent.mkdir(parents=True, exist_ok=True)
    began = told = time.monotonic()
    try:
        with log.open("wb") as output:
            process = subprocess.Popen(
                [str(part) for part in command], stdout=output, stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL, env=clean_environment(),
            )  # fmt: skip
    except OSError as error:
        raise Failure(f"{what} failed: '{command[0]}' cannot be started ({error.strerror}). {cure}") from error
    try:
        while process.poll() is None:
            time.sleep(0.05)
            if time.monotonic() - told >= 15:
                told = time.monotonic()
                say(f"  {told - began:4.0f} s  {tail(log, 1).strip()[:100]}")
    finally:
        if process.poll() is None:
            process.kill()
    if process.returncode:
        raise Failure(f"{what} failed (exit code {process.returncode}). {cure}\nThe end of {log}:\n{tail(log)}")
    say(f"  done in {time.monotonic() - began:.0f} s")


def forward(command: Sequence[str | Path], environment: Mapping[str, str]) -> int:
    """Runs a program in our terminal and returns its exit code; if we are told to stop, so is it, gently."""
    process = subprocess.Popen([str(part) for part in command], cwd=ROOT, env=dict(environment))
    try:
        return process.wait()
    except BaseException as stop:
        # a Ctrl-C went to the child too, and anything more would spoil its tidying up
        if not isinstance(stop, KeyboardInterrupt):
            process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        raise
    finally:
        if process.poll() is None:
            process.kill()


def look_for_faults(
    name: str, command: Sequence[str | Path], environment: Mapping[str, str], found: Sequence[int] = (1,)
) -> None:
    """Runs a program that looks for faults and ends with one of `found` if there are some.

    Raises Failure if there are some, and in other words if it ends in any other way.
    """
    code = forward(command, environment)
    if code in found:
        raise Failure(f"{name} found faults (listed above); mend them before the tests run.")
    if code:
        raise Failure(f"{name} did not get to its end (exit code {code}); what it said above tells why.")


# waits for a byte from its parent; gets an end of file instead if the parent dies without a word
WATCHER = """
import os, signal, subprocess, sys
if not sys.stdin.buffer.read(1):
    if os.name == "nt":
        subprocess.run(["taskkill", "/F", "/T", "/PID", sys.argv[1]])
    else:
        os.killpg(int(sys.argv[1]), signal.SIGKILL)
"""


class ProcessTree:
    """A program and all its children, which `stop` ends; they end with us too, even if we are killed."""

    def __init__(self, command: Sequence[str], **options: Any) -> None:
        if WINDOWS:
            own_group: dict[str, Any] = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}  # type: ignore[attr-defined]
        else:
            own_group = {"start_new_session": True}
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        options = {"stdin": subprocess.DEVNULL, "env": clean_environment(), **own_group, **options}
        try:
            self.process = subprocess.Popen(list(command), **options)
        except OSError as error:
            raise Failure(f"'{command[0]}' cannot be started ({error.strerror}).") from error
        watch = [sys.executable, "-c", WATCHER, str(self.process.pid)]
        self._watcher = subprocess.Popen(watch, stdin=subprocess.PIPE, **quiet, **own_group)

    def stop(self, patience_s: float = 5.0) -> None:
        """Ends the program and its children, first by asking where the system knows how to ask."""
        if WINDOWS:
            taskkill = [shutil.which("taskkill") or "taskkill", "/F", "/T", "/PID", str(self.process.pid)]
            subprocess.run(taskkill, capture_output=True, check=False)
        else:
            for number in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self.process.pid, number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(patience_s)
        self.process.wait()
        with contextlib.suppress(OSError):
            self._watcher.communicate(b".")
