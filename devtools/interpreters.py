"""Python interpreters: making environments, asking them questions, and how they are to compute."""

from __future__ import annotations

import os
import subprocess
import sys
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
    try:
        done = subprocess.run([str(python), "-c", code], capture_output=True, env=clean_environment(), timeout=300)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def has_accelerator(python: Path) -> bool:
    """Whether the interpreter's PyTorch has something better than the CPU to compute on."""
    return runs(
        python,
        "import sys, torch\n"
        "xpu = getattr(torch, 'xpu', None)\n"
        "mps = getattr(torch.backends, 'mps', None)\n"
        "found = [torch.cuda.is_available(), xpu and xpu.is_available(), mps and mps.is_available()]\n"
        "sys.exit(0 if any(found) else 1)\n",
    )


def compute_in_one_thread() -> None:
    """For what computes on the tiny SDXL alone; OMP_NUM_THREADS in the environment goes before it.

    Its tensors are so small that threads wait for each other longer than they work: with another program on the
    machine, a training step took 0.25 s in one thread and 2.7 s in two.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
