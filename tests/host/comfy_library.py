"""Starts ComfyUI as a library in the process of a program that is called as `PROGRAM COMFYUI ROOT BASE`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

COMFYUI, ROOT, BASE = map(Path, sys.argv[1:])


def _load(name: str, folder: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def start(*arguments: str) -> None:
    """Make ComfyUI importable, on a CPU with the host's arguments, and the plugin as `pack`.

    Folders of models below BASE must be there before.
    """
    # before this file's own folder, whose server.py would hide the host's
    sys.path[:0] = [str(COMFYUI)]
    sys.argv = ["main.py", "--cpu", "--base-directory", str(BASE), *arguments]
    importlib.import_module("comfy.options").enable_args_parsing()
    _load("tiny_sdxl", ROOT / "demo" / "tiny_sdxl")
    _load("pack", ROOT)
