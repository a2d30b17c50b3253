"""The cells of a sweep: every combination of the axes' values, and the order in which to compute them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

from .axes import Axis, format_value
from .parameters import COST_RANK, Value

Index = tuple[int, ...]


@dataclass(frozen=True)
class Cell:
    """One combination: `index` counts along each axis, `values` pairs each parameter with its value."""

    index: Index
    values: tuple[tuple[str, Value], ...]

    def get(self, parameter: str, default: Value | None = None) -> Value | None:
        """The value of `parameter` in this cell, or `default` where no axis varies it."""
        return dict(self.values).get(parameter, default)

    def __str__(self) -> str:
        return ", ".join(f"{name} {format_value(value)}" for name, value in self.values) or "the only cell"


def cells(axes: Sequence[Axis]) -> tuple[Cell, ...]:
    """All combinations, last axis fastest; no axes make one cell; ValueError for a parameter used twice."""
    check_distinct(axes)
    indices = product(*(range(len(axis)) for axis in axes))
    return tuple(Cell(index, tuple(_pairs(axes, index))) for index in indices)


def count(axes: Sequence[Axis]) -> int:
    """How many cells the axes make; none of them is made."""
    return prod(len(axis) for axis in axes)


def check_distinct(axes: Sequence[Axis]) -> None:
    """ValueError for a parameter used twice."""
    names = [axis.parameter for axis in axes]
    for position, name in enumerate(names):
        if name in names[:position]:
            raise ValueError(f'Two axes vary "{name}"; put all its values on one axis.')


def _pairs(axes: Sequence[Axis], index: Index) -> list[tuple[str, Value]]:
    return [(axis.parameter, axis.values[at]) for axis, at in zip(axes, index, strict=True)]


def execution_order(cells: Sequence[Cell], cost_rank: Mapping[str, int] = COST_RANK) -> tuple[Cell, ...]:
    """The cells so arranged that what is costly to change changes least often.

    cost_rank: parameter to rank, higher is costlier, absent is 0. Equal values of a parameter come together
    even where an axis repeats them; among equals the given order is kept.
    """
    names = list(dict.fromkeys(name for cell in cells for name, _ in cell.values))
    costliest_first = sorted(names, key=lambda name: -cost_rank.get(name, 0))
    first_seen: dict[str, dict[Value, int]] = {name: {} for name in names}
    for cell in cells:
        for name, value in cell.values:
            first_seen[name].setdefault(value, len(first_seen[name]))

    def key(cell: Cell) -> tuple[int, ...]:
        values = dict(cell.values)
        return tuple(first_seen[name][values[name]] if name in values else -1 for name in costliest_first)

    return tuple(sorted(cells, key=key))
