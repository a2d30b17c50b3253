"""Python interpreters: making environments, asking them questions, and how they are to compute."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from .base import WINDOWS
from .processes import clean_environment, run_step


def venv_python(folder: Path) -> Path:
    return folder / "Scripts" / "python.exe" if WINDOWS else folder / "bin" / "python"


def make_venv(folder: Path, log: Path) -> None:
    """Makes an environment with pip, by our own interpreter. Raises Failure."""
    cure = "Install Python's venv and ensurepip (Debian and Ubuntu: apt install python3-venv) and try again."
    run_step("making a Python environment", [sys.executable, "-m", "venv", folder], cure, log)


def runs(python: Path, code: str) -> bool:
    """Whether an interpreter runs `code` to its end."""
    return _output(python, code) is not None


def missing_modules(python: Path, names: Sequence[str]) -> list[str] | None:
    """Those modules that an interpreter does not find, none of which it imports; None if it does not run."""
    # a folder of the same name where we happen to be would pass for the module
    start = "import importlib.util, sys; sys.path[:] = filter(None, sys.path)"
    found = _output(python, f"{start}; print(*(n for n in {list(names)} if importlib.util.find_spec(n) is None))")
    return None if found is None else found.split()


def _output(python: Path, code: str) -> str | None:
    """What an interpreter prints when it runs `code`; None if it does not come to its end."""
    command = [str(python), "-c", code]
    try:
        done = subprocess.run(
            command, capture_output=True, env=clean_environment(), encoding="utf-8", errors="replace", timeout=300
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if done.returncode else done.stdout


def device_arguments(python: Path) -> list[str]:
    """What ComfyUI's command line needs so that it computes where training was tried: on CUDA, else on the CPU."""
    # MPS, XPU and ROCm, which torch calls cuda too, train nothing that anybody has looked at
    cuda = "import sys, torch; sys.exit(0 if torch.version.cuda and torch.cuda.is_available() else 1)"
    return [] if runs(python, cuda) else ["--cpu"]


def compute_in_one_thread() -> None:
    """For what computes on the tiny SDXL alone; OMP_NUM_THREADS in the environment goes before it.

    Its tensors are so small that threads wait for each other longer than they work: with another program on the
    machine, a training step took 0.25 s in one thread and 2.7 s in two.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
