"""Which axis goes along which side of a figure, as somebody writes it: `rows: Seed, CFG scale; pages: Sampler`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from .axes import Axis
from .select import axis_named
from .values import quoted, split_items

SIDES = ("columns", "rows", "pages")
_FORM = f"write a side ({', '.join(SIDES)}), a colon and axes, as in rows: Seed, CFG scale; pages: Sampler"


@dataclass(frozen=True)
class Placement:
    """The axes wanted along each side, as they were written; those that are not named find their own places."""

    columns: str = ""
    rows: str = ""
    pages: str = ""

    @classmethod
    def parse(cls, text: str) -> Placement:
        """Semicolons or new lines part the sides, commas the axes of one, outermost first.

        Raises:
            ValueError: quotes what names no side or no axis.
        """
        found: dict[str, str] = {}
        for part in (part.strip() for part in re.split(r"[;\n]", text) if part.strip()):
            side, _, names = (piece.strip() for piece in part.partition(":"))
            if side.lower() not in SIDES or not names:
                raise ValueError(f"The placement {quoted(part)} cannot be read; {_FORM}.")
            if side.lower() in found:
                raise ValueError(f"The placement names {side.lower()} twice; write all axes of one side together.")
            split_items(names)  # an open quote raises here
            found[side.lower()] = names
        return cls(**found)

    def numbers(self, axes: Sequence[Axis]) -> dict[str, list[int]]:
        """The numbers of the axes along each side, outermost first.

        Raises:
            ValueError: names an axis that there is not, or one that is placed twice.
        """
        found = {side: _numbers(axes, getattr(self, side)) for side in SIDES}
        every = [number for numbers in found.values() for number in numbers]
        for number in every:
            if every.count(number) > 1:
                name = axes[number].label.strip() or axes[number].parameter
                raise ValueError(f"{name} is placed twice; name each axis once.")
        return found


def _numbers(axes: Sequence[Axis], names: str) -> list[int]:
    labels = {axis.label.casefold() for axis in axes}
    # a label may hold a comma: "LoRA weight, U-Net" alone needs no quotes
    return [axis_named(axes, name) for name in ([names] if names.casefold() in labels else split_items(names))]
