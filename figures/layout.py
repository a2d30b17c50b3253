"""A figure as boxes, text runs and rules: what the PNG, SVG and PDF writers share. All lengths are px."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .cells import Index
from .fonts import Face
from .style import FigureStyle

Anchor = Literal["start", "middle", "end"]
Role = Literal["title", "page", "label", "value", "tag", "reason", "legend", "caption", "note"]
_MUTED: frozenset[str] = frozenset({"reason", "note"})

MM_PER_INCH = 25.4


@dataclass(frozen=True)
class Box:
    """A rectangle; (x, y) is its top left pixel."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class TextRun:
    """One line of text whose baseline starts, is centred or ends at (x, y).

    `turned` text reads upwards: its baseline is the vertical line at x, and it is centred on y.
    """

    text: str
    x: float
    y: float
    size: int
    bold: bool
    anchor: Anchor
    role: Role
    turned: bool = False
    colour: str = ""  # #rrggbb; empty takes the theme's colour for the role


@dataclass(frozen=True)
class Rule:
    """A horizontal or vertical line `weight` px thick between two points, both of them on it."""

    x1: int
    y1: int
    x2: int
    y2: int
    weight: int = 1

    @property
    def box(self) -> Box:
        """The pixels that it covers."""
        if self.y1 == self.y2:
            return Box(self.x1, self.y1, self.x2 - self.x1 + 1, self.weight)
        return Box(self.x1, self.y1, self.weight, self.y2 - self.y1 + 1)


@dataclass(frozen=True)
class CellBox:
    """Where the cell of `index` goes; `is_missing` where a grey box stands in for its image."""

    index: Index
    box: Box
    is_missing: bool = False


@dataclass(frozen=True)
class Layout:
    """One page, `width` × `height` px, to be printed at `dpi` px an inch.

    `warnings` are sentences about what the figure could not show as asked, e.g. glyphs that the font lacks.
    """

    width: int
    height: int
    dpi: float
    style: FigureStyle
    cells: tuple[CellBox, ...]
    texts: tuple[TextRun, ...]
    rules: tuple[Rule, ...] = ()
    warnings: tuple[str, ...] = ()

    def ink(self, run: TextRun) -> str:
        """The colour of a run as #rrggbb."""
        palette = self.style.palette
        return run.colour or (palette.muted if run.role in _MUTED else palette.text)

    @property
    def size_mm(self) -> tuple[float, float]:
        """Printed width and height."""
        return self.width / self.dpi * MM_PER_INCH, self.height / self.dpi * MM_PER_INCH


@dataclass(frozen=True)
class Block:
    """Wrapped text in one face, not yet placed."""

    lines: tuple[str, ...]
    face: Face
    role: Role

    @property
    def width(self) -> int:
        return self.face.widest(self.lines)

    @property
    def height(self) -> int:
        return len(self.lines) * self.face.line_height

    def at(self, x: float, top: float, anchor: Anchor = "middle") -> list[TextRun]:
        """Runs with the first line's top edge at `top`."""
        first = top + self.face.baseline
        return [
            TextRun(line, x, first + number * self.face.line_height, self.face.size, self.face.bold,
                    anchor, self.role)
            for number, line in enumerate(self.lines)
        ]  # fmt: skip

    def turned_at(self, left: float, middle: float) -> list[TextRun]:
        """Runs that read upwards, the first line's top edge at `left`, centred on the height `middle`."""
        return [self._turned(number, left, middle) for number in range(len(self.lines))]

    def turned_from(self, left: float, bottom: float) -> list[TextRun]:
        """Runs that read upwards, the first line's top edge at `left`, every line beginning at `bottom`."""
        return [
            self._turned(number, left, bottom - self.face.width(line) / 2) for number, line in enumerate(self.lines)
        ]

    def _turned(self, number: int, left: float, middle: float) -> TextRun:
        x = left + self.face.baseline + number * self.face.line_height
        return TextRun(self.lines[number], x, middle, self.face.size, self.face.bold, "middle", self.role, turned=True)
