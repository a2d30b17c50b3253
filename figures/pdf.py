"""Layouts as PDF through matplotlib: live text in embedded TrueType, cells with every pixel."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from .cells import Index
from .draw import placed_image
from .files import replacing
from .fonts import font_path
from .layout import Box, CellBox, Layout, TextRun
from .measure import POINTS_PER_INCH

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

_SETTINGS: dict[str, Any] = {
    "pdf.fonttype": 42,  # TrueType, so that text can be searched, copied and edited
    "pdf.compression": 9,
    "pdf.use14corefonts": False,
    "text.usetex": False,
    "text.antialiased": True,
    "image.composite_image": False,
}
_ALIGNMENT = {"start": "left", "middle": "center", "end": "right"}


def save_pdf(layouts: Layout | Sequence[Layout], image_at: Callable[[Index], Image.Image | None], path: Path) -> None:
    """Write one page for each layout, at its printed size, to `path`.

    image_at: a cell's image by its index, so that one image at a time is in memory. Images are stored as they are,
    without loss or resampling. The file carries no date, so equal figures make equal files. Raises OSError, naming
    the file.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_pdf import PdfPages

    pages = [layouts] if isinstance(layouts, Layout) else list(layouts)
    if not pages:
        raise ValueError("A PDF needs at least one page.")
    about = {"Title": pages[0].style.title, "Creator": "Mjesec", "CreationDate": None}
    with _quiet_fonts(), rc_context(_SETTINGS), replacing(path) as file, PdfPages(file, metadata=about) as book:
        for layout in pages:
            book.savefig(_page(layout, image_at))


@contextlib.contextmanager
def _quiet_fonts() -> Iterator[None]:
    """fontTools tells of every table and glyph of an embedded font: hundreds of lines in a log that takes INFO."""
    logger = logging.getLogger("fontTools")
    level = logger.level
    logger.setLevel(max(level, logging.WARNING))
    try:
        yield
    finally:
        logger.setLevel(level)


def _page(layout: Layout, image_at: Callable[[Index], Image.Image | None]) -> Figure:
    from matplotlib.backends.backend_pdf import FigureCanvasPdf
    from matplotlib.figure import Figure

    palette = layout.style.palette
    size = (layout.width / layout.dpi, layout.height / layout.dpi)
    figure = Figure(figsize=size, facecolor=palette.page)
    FigureCanvasPdf(figure)
    for cell in layout.cells:
        if cell.is_missing:
            _add_box(figure, layout, cell.box, palette.box, palette.box_edge)
        else:
            _add_image(figure, layout, cell, image_at)
    for rule in layout.rules:
        _add_box(figure, layout, rule.box, palette.rule, None)
    for run in layout.texts:
        _add_text(figure, layout, run)
    return figure


class _Pixels:
    """What the PDF's writer takes for an array, and holds until the file ends: read only while it is written."""

    def __init__(self, layout: Layout, cell: CellBox, image_at: Callable[[Index], Image.Image | None]) -> None:
        self._source = layout, cell, image_at
        self.shape = (cell.box.height, cell.box.width, 3)

    def __getitem__(self, part: slice) -> NDArray[np.uint8]:
        import numpy as np

        image = placed_image(*self._source)
        if image is None:
            raise ValueError(f"The image of cell {self._source[1].index} is gone; queue the sweep again.")
        return np.asarray(image)[::-1][part]  # the writer takes the lowest row first


def _add_image(figure: Figure, layout: Layout, cell: CellBox, image_at: Callable[[Index], Image.Image | None]) -> None:
    """Hand the pixels to the PDF as they are; matplotlib's own image artists may resample them."""
    from matplotlib.artist import Artist
    from matplotlib.transforms import Affine2D

    box, pixels = cell.box, _Pixels(layout, cell, image_at)
    scale = POINTS_PER_INCH / layout.dpi

    class Pixels(Artist):
        def draw(self, renderer: Any) -> None:
            graphics = renderer.new_gc()
            left, bottom = box.x * scale, (layout.height - box.y - box.height) * scale
            size = Affine2D().scale(box.width * scale, box.height * scale)
            renderer.draw_image(graphics, left, bottom, pixels, size)
            graphics.restore()

    figure.add_artist(Pixels())


def _add_box(figure: Figure, layout: Layout, box: Box, fill: str, edge: str | None) -> None:
    from matplotlib.patches import Rectangle

    corner = (box.x / layout.width, 1 - (box.y + box.height) / layout.height)
    hairline = POINTS_PER_INCH / layout.dpi if edge else 0
    figure.add_artist(
        Rectangle(
            corner,
            box.width / layout.width,
            box.height / layout.height,
            transform=figure.transFigure,
            facecolor=fill,
            edgecolor=edge or "none",
            linewidth=hairline,
        )
    )


def _add_text(figure: Figure, layout: Layout, run: TextRun) -> None:
    from matplotlib.font_manager import FontProperties

    face = FontProperties(fname=str(font_path(layout.style.font, run.bold)))
    face.set_size(run.size / layout.dpi * POINTS_PER_INCH)
    figure.text(
        run.x / layout.width, 1 - run.y / layout.height, run.text, fontproperties=face, parse_math=False,
        color=layout.ink(run), ha=_ALIGNMENT[run.anchor], va="baseline",
        rotation=90 if run.turned else 0, rotation_mode="anchor",
    )  # fmt: skip
