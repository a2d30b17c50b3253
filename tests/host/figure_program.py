"""Runs ComfyUI as a library and prints, as JSON, what it takes to write a figure of pictures on disk.

Started by test_figure.py in a process of its own: `figure_program.py COMFYUI ROOT BASE`.
"""

from __future__ import annotations

import importlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

from comfy_library import BASE, start

start()

import folder_paths  # noqa: E402
from pack.figures import Axis, FigureStyle  # noqa: E402
from PIL import Image  # noqa: E402

figure_files: Any = importlib.import_module("pack.nodes.figure.files")
grids: Any = importlib.import_module("pack.nodes.sweep.grid")

PICTURES = [BASE / f"{number}.png" for number in range(4)]
AXES = (Axis("cfg", (1.0, 2.0)), Axis("seed", (1, 2)))


def grid() -> Any:
    for number, path in enumerate(PICTURES):
        Image.new("RGB", (64, 48), (40 * number, 0, 0)).save(path)
    return grids.Grid(AXES, tuple(grids.CellResult(str(path), "", 0.0) for path in PICTURES), {})


def write(one: Any) -> str:
    """The error, if there is one."""
    style = FigureStyle(caption="One seed.")
    try:
        figure_files.write_figure(one, style, "figure", files="PNG, PDF, SVG", manifest=False, notes={})
    except ValueError as error:
        return str(error)
    return ""


def pictures_read() -> list[int]:
    """How often each cell's picture is decoded for three files that show it."""
    one, read, own = grid(), Counter[tuple[int, ...]](), grids.Grid.image

    def counted(self: Any, cell: Any) -> Any:
        read[cell.index] += 1
        return own(self, cell)

    grids.Grid.image = counted
    try:
        assert write(one) == ""
    finally:
        grids.Grid.image = own
    return list(read.values())


def broken() -> dict[str, tuple[str, int]]:
    """What is said of a picture that cannot be read, and how many files are left."""
    told = {}
    for name, data in (("gone", None), ("no picture", b"text"), ("cut off", PICTURES[3].read_bytes()[:60])):
        one, output = grid(), Path(folder_paths.get_output_directory())
        before = len(list(output.iterdir()))
        PICTURES[3].unlink() if data is None else PICTURES[3].write_bytes(data)
        told[name] = write(one), len(list(output.iterdir())) - before
    return told


print(json.dumps({"read": pictures_read(), "broken": broken()}))
