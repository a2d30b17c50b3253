"""One page of a figure before layout: its cells by row and column, and how large each one is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from .arrange import Arrangement, Line
from .axes import Axis
from .cells import Index
from .measure import Sizes
from .style import FigureStyle

FALLBACK_SIZE = (256, 256)


@dataclass(frozen=True)
class Page:
    """The axes, the page's own place among them (`line`), and what is known of each cell."""

    axes: Sequence[Axis]
    arrangement: Arrangement
    line: Line
    sizes: Sizes
    style: FigureStyle
    failed: Mapping[Index, str]

    def index(self, row: Line, column: Line) -> Index:
        return self.arrangement.index(self.line, row, column)

    @property
    def heading(self) -> str:
        """The values that all cells of the page share."""
        side = self.arrangement.pages
        pairs = zip(side.axes, self.line, strict=True)
        told = ((self.axes[axis].label.strip(), self.axes[axis].texts[at]) for axis, at in pairs)
        return " · ".join(f"{label}: {text}" if label else text for label, text in told)

    @property
    def rows(self) -> tuple[Line, ...]:
        return self.arrangement.rows.lines

    @cached_property
    def bands(self) -> list[tuple[Line, ...]]:
        """The columns of cells, in pieces of at most `style.columns`."""
        lines = self.arrangement.columns.lines
        most = self.style.columns or len(lines)
        return [lines[start : start + most] for start in range(0, len(lines), most)]

    @cached_property
    def image_sizes(self) -> dict[tuple[int, int, int], tuple[int, int]]:
        """Drawn size in px of the cells that have an image, by band, row and column within the band."""
        widest = max((size[0] for size in self.sizes.values() if size), default=1)
        scale = 1 if self.style.cell_width is None else self.style.cell_width / widest
        return {
            (band, row, column): (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
            for band, lines in enumerate(self.bands)
            for row, row_line in enumerate(self.rows)
            for column, line in enumerate(lines)
            if (size := self._size(self.index(row_line, line)))
        }

    def _size(self, index: Index) -> tuple[int, int] | None:
        return None if index in self.failed else self.sizes.get(index)

    @cached_property
    def fallback(self) -> tuple[int, int]:
        """The size of a line in which no cell has an image: the page's commonest."""
        if self.image_sizes:
            return Counter(self.image_sizes.values()).most_common(1)[0][0]
        width = self.style.cell_width
        return FALLBACK_SIZE if width is None else (width, width)

    @cached_property
    def column_widths(self) -> tuple[int, ...]:
        """Width of each column, shared by the bands: that of its widest image."""
        found = [[width for (_, _, at), (width, _) in self.image_sizes.items() if at == column]
                 for column in range(len(self.bands[0]))]  # fmt: skip
        return tuple(max(widths, default=self.fallback[0]) for widths in found)

    @cached_property
    def row_heights(self) -> tuple[tuple[int, ...], ...]:
        """Height of each row of each band: that of its tallest image."""
        tallest: dict[tuple[int, int], int] = {}
        for (band, row, _), (_, height) in self.image_sizes.items():
            tallest[band, row] = max(height, tallest.get((band, row), 0))
        return tuple(
            tuple(tallest.get((band, row), self.fallback[1]) for row in range(len(self.rows)))
            for band in range(len(self.bands))
        )
