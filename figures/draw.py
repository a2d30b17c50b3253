"""Draw layouts with Pillow: cells pixel by pixel, text from the font that measured it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from PIL import Image, ImageDraw

from .axes import Axis
from .cells import Cell, cells
from .fonts import Face
from .layout import CellBox, Layout, TextRun
from .measure import Sizes
from .page import Index
from .plan import plan_figure, plan_pages
from .style import FigureStyle

ImageOf = Callable[[Cell], "Image.Image | None"]
_DEFAULT_STYLE = FigureStyle()
_ANCHORS = {"start": "ls", "middle": "ms", "end": "rs"}


def draw_figure(
    axes: Sequence[Axis],
    image_of: ImageOf,
    style: FigureStyle = _DEFAULT_STYLE,
    failed: Mapping[Index, str] | None = None,
) -> Image.Image:
    """The whole sweep on one RGB page.

    image_of: the cell's image or None. It is called twice a cell, once for the size and once for the
    pixels, so that it may open a file each time and no more than one cell need be in memory.
    failed: why a cell has no image, by index; the reason is drawn in its place.
    Raises ValueError for two axes of one parameter.
    """
    layout = plan_figure(axes, image_sizes(axes, image_of), style, failed)
    return render(layout, by_index(axes, image_of))


def draw_pages(
    axes: Sequence[Axis],
    image_of: ImageOf,
    style: FigureStyle = _DEFAULT_STYLE,
    failed: Mapping[Index, str] | None = None,
) -> list[Image.Image]:
    """As `draw_figure`, with a page for each combination of the axes beyond the second."""
    layouts = plan_pages(axes, image_sizes(axes, image_of), style, failed)
    return [render(layout, by_index(axes, image_of)) for layout in layouts]


def image_sizes(axes: Sequence[Axis], image_of: ImageOf) -> Sizes:
    """(width, height) in px of every cell's image, None where there is none."""
    found = ((cell.index, image_of(cell)) for cell in cells(axes))
    return {index: None if image is None else image.size for index, image in found}


def by_index(axes: Sequence[Axis], image_of: ImageOf) -> Callable[[Index], Image.Image | None]:
    """`image_of` for a cell's index instead of the cell, as `render` and the writers of `export` take it."""
    known = {cell.index: cell for cell in cells(axes)}
    return lambda index: image_of(known[index])


def render(layout: Layout, image_at: Callable[[Index], Image.Image | None]) -> Image.Image:
    """The layout as an RGB image of `layout.width` × `layout.height` px."""
    palette = layout.style.palette
    page = Image.new("RGB", (layout.width, layout.height), palette.page)
    pen = ImageDraw.Draw(page)
    for cell, image in placed_images(layout, image_at):
        left, top, width, height = cell.box.x, cell.box.y, cell.box.width, cell.box.height
        if image is None:
            edge = (left, top, left + width - 1, top + height - 1)
            pen.rectangle(edge, fill=palette.box, outline=palette.box_edge)
        else:
            page.paste(image, (left, top))
    for rule in layout.rules:
        pen.rectangle(_thick(rule.x1, rule.y1, rule.x2, rule.y2, rule.weight), fill=palette.rule)
    for run in layout.texts:
        _draw_text(page, pen, run, layout)
    return page


def placed_images(
    layout: Layout, image_at: Callable[[Index], Image.Image | None]
) -> Iterator[tuple[CellBox, Image.Image | None]]:
    """Each cell and its RGB image, scaled only where the layout's box asks for it; None if missing."""
    for cell in layout.cells:
        yield cell, placed_image(layout, cell, image_at)


def placed_image(layout: Layout, cell: CellBox, image_at: Callable[[Index], Image.Image | None]) -> Image.Image | None:
    """One cell of `placed_images`."""
    image = None if cell.is_missing else image_at(cell.index)
    if image is None:
        return None
    size = (cell.box.width, cell.box.height)
    opaque = _opaque(image, layout.style.palette.page)
    return opaque if opaque.size == size else opaque.resize(size, Image.Resampling.LANCZOS)


def _opaque(image: Image.Image, page: str) -> Image.Image:
    """RGB, with the page's colour behind whatever is transparent."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if "A" not in image.getbands() and "transparency" not in image.info:
        return image.convert("RGB")
    over = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, page), over).convert("RGB")


def _thick(x1: int, y1: int, x2: int, y2: int, weight: int) -> tuple[int, int, int, int]:
    return (x1, y1, x2, y2 + weight - 1) if y1 == y2 else (x1, y1, x2 + weight - 1, y2)


def _draw_text(page: Image.Image, pen: ImageDraw.ImageDraw, run: TextRun, layout: Layout) -> None:
    colour = layout.ink(run)
    face = Face(layout.style.font, run.size, run.bold)
    if not run.turned:
        pen.text((round(run.x), round(run.y)), run.text, fill=colour, font=face.font, anchor=_ANCHORS[run.anchor])
        return
    width = face.widest((run.text,)) + 2
    upright = Image.new("L", (width, face.line_height), 0)
    ImageDraw.Draw(upright).text((1, face.baseline), run.text, fill=255, font=face.font, anchor="ls")
    mask = upright.transpose(Image.Transpose.ROTATE_90)
    page.paste(colour, (round(run.x) - face.baseline, round(run.y - width / 2)), mask)
