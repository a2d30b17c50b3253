"""Runs ComfyUI as a library and prints, as JSON, what it takes to write a figure of pictures on disk.

Started by test_figure.py in a process of its own: `figure_program.py COMFYUI ROOT BASE`.
"""

from __future__ import annotations

import errno
import importlib
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

from comfy_library import BASE, start

start()

import folder_paths  # noqa: E402
from pack.figures import Axis, ChartStyle, FigureStyle, loss_chart  # noqa: E402
from PIL import Image  # noqa: E402

figure_files: Any = importlib.import_module("pack.nodes.figure.files")
charts: Any = importlib.import_module("pack.nodes.training.loss_chart")
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
    except (ValueError, OSError) as error:
        return str(error)
    return ""


def figures_at_once() -> list[str]:
    """The files of a figure that is begun and written while another is drawn, as another process would."""
    output, own, begun = Path(folder_paths.get_output_directory()), grids.Grid.image, []
    before = set(output.iterdir())

    def meanwhile(self: Any, cell: Any) -> Any:
        if not begun:
            begun.append(self)
            assert write(self) == ""
        return own(self, cell)

    grids.Grid.image = meanwhile
    try:
        assert write(grid()) == ""
    finally:
        grids.Grid.image = own
    return sorted(path.name for path in set(output.iterdir()) - before)


def charts_at_once() -> list[str]:
    style, told = ChartStyle(), []

    class Meanwhile:
        def write(self, path: Path) -> None:
            told.extend(charts._written(loss_chart([0.2, 0.1]), "print/loss", ("svg",), style))
            loss_chart([0.2, 0.1]).write(path)

    told.extend(charts._written(Meanwhile(), "print/loss", ("svg",), style))
    return told


def no_room_for(ending: str) -> tuple[str, list[str]]:
    """The error, and the files of that ending that are left."""
    output, own = Path(folder_paths.get_output_directory()), os.replace
    before = set(output.glob(f"*{ending}"))

    def full(source: Path, target: Path) -> None:
        if str(target).endswith(ending):
            raise OSError(errno.ENOSPC, "No space left on device")
        own(source, target)

    os.replace = full
    try:
        return write(grid()), sorted(path.name for path in set(output.glob(f"*{ending}")) - before)
    finally:
        os.replace = own


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


told = {"read": pictures_read(), "broken": broken(), "at once": figures_at_once(), "charts": charts_at_once()}
print(json.dumps({**told, "no room": no_room_for(".tex")}))
