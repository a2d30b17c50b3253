"""The versions that a result depends on."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import comfyui_version
import torch


@cache
def versions() -> dict[str, str]:
    """Mjesec's version as pyproject.toml states it, the host's and PyTorch's."""
    project = Path(__file__).parent.parent / "pyproject.toml"
    found = re.search(r'^version = "([^"]+)"', project.read_text(encoding="utf-8"), re.MULTILINE)
    return {
        "mjesec": found[1] if found else "unknown",
        "comfyui": comfyui_version.__version__,
        "torch": torch.__version__,
    }
