"""The name under which the host lists the checkpoint that a MODEL came from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import folder_paths


def checkpoint_name(model: Any) -> str:
    """As Load Checkpoint lists it, with its sub-folder; empty where the MODEL does not tell or it is not listed."""
    init = getattr(model, "cached_patcher_init", None)
    path = init[1][0] if init and init[1] else None
    if not isinstance(path, str) or not path:
        return ""
    for folder in folder_paths.get_folder_paths("checkpoints"):
        if Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder)):
            return os.path.relpath(path, folder)
    return ""
