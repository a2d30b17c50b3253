"""Which cell stands in which row and column: the axes laid along columns, rows and pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

from .axes import Axis
from .cells import Index
from .placement import Placement

Line = tuple[int, ...]  # value positions of the axes along one side
_ANYWHERE = Placement()


@dataclass(frozen=True)
class Side:
    """The axes along one side of the figure, outermost first, and its lines of cells."""

    axes: tuple[int, ...]
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Arrangement:
    """Columns, rows and pages of the axes; `index` finds the cell at a crossing."""

    columns: Side
    rows: Side
    pages: Side

    def index(self, page: Line, row: Line, column: Line) -> Index:
        places = (self.pages, page), (self.rows, row), (self.columns, column)
        found = {axis: at for side, line in places for axis, at in zip(side.axes, line, strict=True)}
        return tuple(found[axis] for axis in range(len(found)))


def arrange(
    axes: Sequence[Axis], placement: Placement = _ANYWHERE, *, transpose: bool = False, paged: bool = False
) -> Arrangement:
    """Lay the axes out where `placement` wants them, the rest in order: along the columns, then along the rows.

    Further axes become pages if `paged`, else outer headers on the side with fewer lines.
    """
    sides = placement.numbers(axes)
    placed = {number for numbers in sides.values() for number in numbers}
    for number in (number for number in range(len(axes)) if number not in placed):
        _place(number, sides, axes, paged)
    columns, rows = (sides["rows"], sides["columns"]) if transpose else (sides["columns"], sides["rows"])
    return Arrangement(_side(columns, axes), _side(rows, axes), _side(sides["pages"], axes))


def _place(number: int, sides: dict[str, list[int]], axes: Sequence[Axis], paged: bool) -> None:
    columns, rows = sides["columns"], sides["rows"]
    if not columns:
        columns.append(number)
    elif not rows:
        rows.append(number)
    elif paged:
        sides["pages"].append(number)
    else:
        lines = [prod(len(axes[at]) for at in side) for side in (columns, rows)]
        (rows if lines[1] <= lines[0] else columns).insert(0, number)


def _side(numbers: Sequence[int], axes: Sequence[Axis]) -> Side:
    return Side(tuple(numbers), tuple(product(*(range(len(axes[number])) for number in numbers))))
