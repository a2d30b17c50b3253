"""A finished sweep as a frozen value: axes, settings, and where each cell's image lies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ...figures import Axis, Cell, cells, figure_manifest
from ..reports import some

Index = tuple[int, ...]


class Attempts:
    """Counts sweeps that have something to make up for, so that queueing the same graph again runs them again."""

    unfinished = 0


@dataclass(frozen=True)
class CellResult:
    """One cell: the PNG's path, or the reason why there is none; and its seconds of work.

    source: "computed" or "cached". how: "exact" or "fast". key: its name in the cell store. pixels: their hash.
    check, left_out: as of ``Kept``.
    """

    path: str
    error: str
    seconds: float
    source: str = "computed"
    how: str = "exact"
    key: str = ""
    pixels: str = ""
    parameters: Mapping[str, object] | None = None
    check: Mapping[str, object] | None = None
    left_out: str = ""


@dataclass(frozen=True)
class Grid:
    """``results`` are in the order of ``cells(axes)``; ``about`` holds what all cells share.

    name: the manifest's, under which the editor finds the sweep on disk; empty if there is none, as for every view
    that shows other pictures or fewer than the sweep has.
    numbers: what was measured of each cell, None where it could not be; a figure then shows them on their colours
    and not the images. measure: what they are, with the unit. spreads: standard deviations of numbers that are means.
    """

    axes: tuple[Axis, ...]
    results: tuple[CellResult, ...]
    about: Mapping[str, object]
    name: str = ""
    numbers: Mapping[Index, float | None] | None = None
    measure: str = ""
    spreads: Mapping[Index, float | None] | None = None

    def result(self, cell: Cell) -> CellResult:
        position = 0
        for axis, at in zip(self.axes, cell.index, strict=True):
            position = position * len(axis) + at
        return self.results[position]

    def image(self, cell: Cell) -> Image.Image | None:
        """The cell's picture, RGB or RGBA, opened anew at each call; None for a failed cell."""
        result = self.result(cell)
        if result.error:
            return None
        if not Path(result.path).exists():
            Attempts.unfinished += 1
            raise ValueError(f"The image of {cell} is gone from '{result.path}'; queue the sweep again.")
        try:
            with Image.open(result.path) as image:
                return image.convert("RGBA" if image.has_transparency_data else "RGB")
        except (OSError, SyntaxError) as error:
            Attempts.unfinished += 1
            raise ValueError(f"The image of {cell} in '{result.path}' is damaged; queue the sweep again.") from error

    def failed(self) -> dict[Index, str]:
        return {cell.index: self.result(cell).error for cell in cells(self.axes) if self.result(cell).error}

    def failures(self) -> list[str]:
        """A line for each reason for which cells failed: where on the axes they lie, how many they are, and why."""
        places: dict[str, list[Index]] = {}
        for index, reason in self.failed().items():
            places.setdefault(reason, []).append(index)
        return [
            f"{self._where(indices)} ({len(indices)} cell{'' if len(indices) == 1 else 's'}): {reason}"
            for reason, indices in places.items()
        ]

    def _where(self, indices: Sequence[Index]) -> str:
        """The values that tell some cells from all others; cell by cell where they make no whole rows or columns."""
        titles = [(axis.label, axis.texts) for axis in self.axes]
        values = [sorted(set(ats)) for ats in zip(*indices, strict=True)]
        if math.prod(map(len, values)) == len(indices):
            told = [
                f"{label} {some([texts[at] for at in ats])}".strip()
                for (label, texts), ats in zip(titles, values, strict=True)
                if len(ats) < len(texts)
            ]
            return "; ".join(told)
        named = [
            ", ".join(f"{label} {texts[at]}".strip() for (label, texts), at in zip(titles, index, strict=True))
            for index in indices
        ]
        return some(named, "; ")

    def without_effect(self) -> list[Axis]:
        """Axes of at least two different values along which every cell has the same pixels."""
        return [axis for number, axis in enumerate(self.axes) if self._changes_nothing(number)]

    def _changes_nothing(self, number: int) -> bool:
        axis = self.axes[number]
        stride = math.prod(len(later) for later in self.axes[number + 1 :])
        lines: dict[int, dict[object, set[str]]] = {}
        for at, result in enumerate(self.results):
            if not result.error:
                place = at // stride % len(axis)
                line = lines.setdefault(at - place * stride, {})
                line.setdefault(axis.values[place], set()).add(result.pixels)
        # a failed cell says nothing; lines that are left with one value say nothing either
        compared = [line for line in lines.values() if len(line) > 1]
        return bool(compared) and all(len(set().union(*line.values())) == 1 for line in compared)

    def manifest(self) -> dict[str, Any]:
        """Axes, every cell with its parameters, seconds, hash and whether it was computed or on disk, and ``about``."""
        records = {
            cell.index: {name: value for name, value in vars(self.result(cell)).items() if value not in ("", None)}
            for cell in cells(self.axes)
        }
        for index, number in (self.numbers or {}).items():
            records[index] |= {self.measure: number}
        for index, spread in (self.spreads or {}).items():
            records[index] |= {"standard deviation": spread}
        return figure_manifest(self.axes, records, **self.about)


def sweep_shown(grid: Grid) -> dict[str, list[str]]:
    """For a node's ui: which sweep on disk its viewer opens; an empty name for what is none."""
    return {"mjesec_sweep": [grid.name]}
