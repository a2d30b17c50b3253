"""Which cell stands in which row and column: the axes laid along columns, rows and pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from math import prod

from .axes import Axis


@dataclass(frozen=True)
class Side:
    """The axes along one side of the figure, outermost first, and each line's value positions."""

    axes: tuple[int, ...]
    lines: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Arrangement:
    """Columns, rows and pages of the axes; `index` finds the cell at a crossing."""

    columns: Side
    rows: Side
    pages: Side

    def index(self, page: tuple[int, ...], row: tuple[int, ...], column: tuple[int, ...]) -> tuple[int, ...]:
        places = (self.pages, page), (self.rows, row), (self.columns, column)
        found = {axis: at for side, line in places for axis, at in zip(side.axes, line, strict=True)}
        return tuple(found[axis] for axis in range(len(found)))


@dataclass
class _Sides:
    columns: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    pages: list[int] = field(default_factory=list)


def arrange(axes: Sequence[Axis], *, transpose: bool = False, paged: bool = False) -> Arrangement:
    """Lay the axes out: the first along the columns, the second along the rows.

    Further axes become pages if `paged`, else outer headers on the side with fewer lines. An axis with a
    position of its own keeps it; in a figure of one page, "pages" stands for outer rows.
    """
    sides = _Sides()
    for number, axis in enumerate(axes):
        if axis.position == "pages" and not paged:
            sides.rows.append(number)
        elif axis.position != "auto":
            getattr(sides, axis.position).append(number)
    for number in (number for number, axis in enumerate(axes) if axis.position == "auto"):
        _place(number, sides, axes, paged)
    columns, rows = (sides.rows, sides.columns) if transpose else (sides.columns, sides.rows)
    return Arrangement(_side(columns, axes), _side(rows, axes), _side(sides.pages, axes))


def _place(number: int, sides: _Sides, axes: Sequence[Axis], paged: bool) -> None:
    if not sides.columns:
        sides.columns.append(number)
    elif not sides.rows:
        sides.rows.append(number)
    elif paged:
        sides.pages.append(number)
    else:
        lines = {id(side): prod(len(axes[at]) for at in side) for side in (sides.columns, sides.rows)}
        fewest = sides.rows if lines[id(sides.rows)] <= lines[id(sides.columns)] else sides.columns
        fewest.insert(0, number)


def _side(numbers: Sequence[int], axes: Sequence[Axis]) -> Side:
    return Side(tuple(numbers), tuple(product(*(range(len(axes[number])) for number in numbers))))
