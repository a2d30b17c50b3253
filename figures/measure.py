"""Font size and spacing of a figure, all in proportion to one size in px."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .cells import Index
from .fonts import LINE_HEIGHT, Face
from .layout import MM_PER_INCH, Block, Role
from .style import DEFAULT_PT, FigureStyle

SMALLEST = 11  # px; below it DejaVu's diacritics run together on a screen
POINTS_PER_INCH = 72
LEAST_PT = 6.0  # in print; narrow columns take upright values rather than smaller ones

Sizes = Mapping[Index, "tuple[int, int] | None"]

_SCALE: dict[str, float] = {"title": 1.35, "page": 1.1, "reason": 0.9, "note": 0.9}
_BOLD: frozenset[str] = frozenset({"title", "label"})


@dataclass(frozen=True)
class Metrics:
    """Spacing that follows the font size `size` px of the headers."""

    size: int
    style: FigureStyle

    def em(self, ratio: float) -> int:
        return round(self.size * ratio)

    @property
    def margin(self) -> int:
        return self.em(1.5) if self.style.margin is None else self.style.margin

    @property
    def gap(self) -> int:
        return max(2, self.em(0.45)) if self.style.gap is None else self.style.gap

    @property
    def group_gap(self) -> int:
        """Between cells that differ in an outer axis."""
        return self.gap + self.em(0.9)

    def face(self, role: Role, scale: float = 1.0) -> Face:
        pixels = max(1, round(self.size * _SCALE.get(role, 1.0) * scale))
        return Face(self.style.font, pixels, role in _BOLD)

    def block(self, text: str, role: Role, limit: float) -> Block:
        """`text` wrapped to `limit` px."""
        face = self.face(role)
        return Block(face.wrap(text, limit), face, role)


def font_size(style: FigureStyle, cell_widths: Sequence[int], dpi: float) -> int:
    """Size of the headers in px for a figure with columns as wide as `cell_widths`, printed at `dpi`.

    Points are taken at their word. Without them the text is 8 pt on a page of known width, and else such that
    it is 8 pt once the figure fills a text width of 160 mm; either way it stays in proportion to the cells, but
    under 6 pt only where not even a line of it is as high as a column is wide.
    """
    if style.font_size_pt is not None:
        return max(1, round(style.font_size_pt * dpi / POINTS_PER_INCH))
    cell = sum(cell_widths) / len(cell_widths)
    if style.width_mm is not None:
        least = min(LEAST_PT * dpi / POINTS_PER_INCH, cell / LINE_HEIGHT)
        return round(max(SMALLEST, least, min(DEFAULT_PT * dpi / POINTS_PER_INCH, cell / 5)))
    wanted = sum(cell_widths) * DEFAULT_PT / POINTS_PER_INCH * MM_PER_INCH / 160
    least = min(wanted * LEAST_PT / DEFAULT_PT, cell / 3.5)
    lowest, highest = max(SMALLEST, cell / 30), max(SMALLEST, cell / 7, least)
    return round(min(max(wanted, lowest), highest))


def print_dpi(style: FigureStyle, width: int) -> float:
    """Pixels an inch of a figure `width` px wide."""
    return style.dpi if style.width_mm is None else width / style.width_mm * MM_PER_INCH
