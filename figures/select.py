"""Fewer values of some axes, or an axis less: which of the old cells the new ones are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

from .axes import Axis, format_value
from .cells import Index
from .values import split_items


def axis_named(axes: Sequence[Axis], name: str) -> int:
    """The number of the axis with that label or parameter, in any case.

    Raises:
        ValueError: names the axes that there are.
    """
    wanted = name.strip().casefold()
    for number, axis in enumerate(axes):
        if wanted in (axis.label.casefold(), axis.parameter.casefold()):
            return number
    there = ", ".join(axis.label.strip() or axis.parameter for axis in axes) or "none"
    raise ValueError(f'The sweep has no axis "{name.strip()}"; there are: {there}.')


def select_axes(axes: Sequence[Axis], text: str) -> tuple[tuple[Axis, ...], list[Index]]:
    """The axes cut down to the values that `text` keeps, one axis a line, and the old index of each new cell.

    Values are parted by commas; one that holds commas stands in quotes, or alone in its line.

    Raises:
        ValueError: quotes a line that names no axis or no value of it.
    """
    kept = [tuple(range(len(axis))) for axis in axes]
    for line in (line for line in text.splitlines() if line.strip()):
        name, colon, values = line.partition(":")
        if not colon:
            raise ValueError(f'"{line.strip()}" names no values; write the axis, a colon and values: CFG scale: 4, 7.')
        number = axis_named(axes, name)
        kept[number] = _places(axes[number], values)
    new = tuple(
        replace(axis, values=tuple(axis.values[at] for at in places), names=tuple(axis.texts[at] for at in places))
        for axis, places in zip(axes, kept, strict=True)
    )
    return new, list(product(*kept))


def _places(axis: Axis, values: str) -> tuple[int, ...]:
    whole = _place(axis, values.strip())
    if whole is not None:
        return (whole,)
    found = []
    for value in split_items(values.strip().removesuffix(",")):
        place = _place(axis, value)
        if place is None:
            quotes = " Put a value with commas in quotes." if any("," in text for text in axis.texts) else ""
            raise ValueError(f'{axis.label} has no value "{value}"; it has {", ".join(axis.texts)}.{quotes}')
        found.append(place)
    if not found:
        raise ValueError(f"No value of {axis.label} is named; it has {', '.join(axis.texts)}.")
    return tuple(found)


def _place(axis: Axis, wanted: str) -> int | None:
    for number, (own, text) in enumerate(zip(axis.values, axis.texts, strict=True)):
        if wanted in (text, str(own), format_value(own)):
            return number
    return None


def without_axis(axes: Sequence[Axis], name: str) -> tuple[tuple[Axis, ...], list[list[Index]]]:
    """The other axes, and for each of their cells the old indices along the axis that goes."""
    gone = axis_named(axes, name)
    rest = [range(len(axis)) for number, axis in enumerate(axes) if number != gone]
    groups = [[(*place[:gone], at, *place[gone:]) for at in range(len(axes[gone]))] for place in product(*rest)]
    return tuple(axis for number, axis in enumerate(axes) if number != gone), groups
