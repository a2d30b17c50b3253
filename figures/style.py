"""How a figure looks: text, sizes and colours, with their rules."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from .fonts import Family
from .placement import Placement

Theme = Literal["light", "dark"]
DEFAULT_PT = 8.0  # what journals and theses set in figures


@dataclass(frozen=True)
class Palette:
    """Colours as #rrggbb: page, text, secondary text, thin rules, and the box of a missing cell."""

    page: str
    text: str
    muted: str
    rule: str
    box: str
    box_edge: str


PALETTES: dict[str, Palette] = {
    "light": Palette("#ffffff", "#1b1c1e", "#5c6067", "#8b8f96", "#eeeff1", "#c3c6cb"),
    "dark": Palette("#17181b", "#ececee", "#a4a8af", "#7b8088", "#26282c", "#494d54"),
}


def palette_of(theme: str) -> Palette:
    """The colours of a theme; ValueError for one that there is not."""
    if theme not in PALETTES:
        raise ValueError(f'The theme of a figure is "light" or "dark", not "{theme}".')
    return PALETTES[theme]


@dataclass(frozen=True)
class FigureStyle:
    """Everything about a figure but its cells.

    font_size_pt: size of the headers in print; None takes 8 pt where `width_mm` is given and otherwise a size
        in proportion to the figure. Title and notes follow it.
    gap, margin: px between cells and around the figure; None takes them from the font size.
    width_mm: printed width; the resolution then follows from the pixels, for cells are not rescaled to it.
    dpi: resolution where `width_mm` is not given.
    cell_width: px; None keeps every cell's own pixels, a number scales the widest cell to it.
    tags: (a), (b), … under the cells, in reading order. transpose: rows and columns change places.
    columns: at most so many columns of cells; the rest goes below. None sets no limit.
    placement: which axes go along the columns, the rows and the pages; the others find their own places.
    pages: whether an axis that finds neither columns nor rows free makes pages; else it makes outer headers.
    """

    title: str = ""
    caption: str = ""
    font: Family = "sans"
    font_size_pt: float | None = None
    theme: Theme = "light"
    gap: int | None = None
    margin: int | None = None
    width_mm: float | None = None
    dpi: int = 300
    cell_width: int | None = None
    tags: bool = False
    transpose: bool = False
    columns: int | None = None
    placement: Placement = Placement()
    pages: bool = False

    def __post_init__(self) -> None:
        if self.font not in ("sans", "serif"):
            raise ValueError(f'The font of a figure is "sans" or "serif", not "{self.font}".')
        palette_of(self.theme)
        limits = (
            ("font_size_pt", self.font_size_pt, 1, 200), ("gap", self.gap, 0, 1000),
            ("margin", self.margin, 0, 4000), ("width_mm", self.width_mm, 10, 5000),
            ("dpi", self.dpi, 10, 2400), ("cell_width", self.cell_width, 8, 16384),
            ("columns", self.columns, 1, 10_000),
        )  # fmt: skip
        for name, value, low, high in limits:
            if value is not None and not (math.isfinite(value) and low <= value <= high):
                raise ValueError(f"The figure's {name} is {value}; it must be from {low} to {high}.")

    @property
    def palette(self) -> Palette:
        return palette_of(self.theme)
