"""Axes and image sizes to page layouts. Nothing is drawn here and no image is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .arrange import arrange
from .axes import Axis
from .cells import Index, check_distinct
from .layout import Layout
from .measure import Metrics, Sizes, font_size, print_dpi
from .page import Page
from .place import lay_out
from .style import FigureStyle

_DEFAULT_STYLE = FigureStyle()


def plan_figure(
    axes: Sequence[Axis],
    sizes: Sizes,
    style: FigureStyle = _DEFAULT_STYLE,
    failed: Mapping[Index, str] | None = None,
) -> Layout:
    """The page of a figure that makes only one, else the first; see `plan_pages`."""
    return plan_pages(axes, sizes, style, failed)[0]


def plan_pages(
    axes: Sequence[Axis],
    sizes: Sizes,
    style: FigureStyle = _DEFAULT_STYLE,
    failed: Mapping[Index, str] | None = None,
) -> tuple[Layout, ...]:
    """A page for each combination of the axes that make pages, headed by it; three and more axes nest headers.

    sizes: (width, height) in px of each cell's image by index; None or absent where there is none.
    failed: why a cell has no image, by index.
    """
    check_distinct(axes)
    arrangement = arrange(axes, style.placement, transpose=style.transpose, paged=style.pages)
    pages = (Page(axes, arrangement, line, sizes, style, failed or {}) for line in arrangement.pages.lines)
    return tuple(_plan(page) for page in pages)


def _plan(page: Page) -> Layout:
    """Lay out, and again while the resulting width asks for another font size; it soon settles."""
    size = font_size(page.style, page.column_widths, print_dpi(page.style, sum(page.column_widths)))
    layout = lay_out(page, Metrics(size, page.style))
    for _ in range(6):
        wanted = font_size(page.style, page.column_widths, layout.dpi)
        if wanted == size:
            break
        size = wanted
        layout = lay_out(page, Metrics(size, page.style))
    return layout
