"""Draw layouts with Pillow: cells pixel by pixel, text from the font that measured it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from PIL import Image, ImageDraw

from .axes import Axis
from .cells import Cell, Index, cells
from .fonts import Face
from .layout import Box, CellBox, Layout, TextRun

ImageOf = Callable[[Cell], "Image.Image | None"]
_ANCHORS = {"start": "ls", "middle": "ms", "end": "rs"}


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
        if image is None:
            _fill(pen, cell.box, palette.box, palette.box_edge)
        else:
            page.paste(image, (cell.box.x, cell.box.y))
    for rule in layout.rules:
        _fill(pen, rule.box, palette.rule)
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
    shown = opaque(image, layout.style.palette.page)
    return shown if shown.size == size else shown.resize(size, Image.Resampling.LANCZOS)


def opaque(image: Image.Image, page: str = "#ffffff") -> Image.Image:
    """RGB, with the page's colour behind whatever is transparent."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if "A" not in image.getbands() and "transparency" not in image.info:
        return image.convert("RGB")
    over = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, page), over).convert("RGB")


def _fill(pen: ImageDraw.ImageDraw, box: Box, colour: str, edge: str | None = None) -> None:
    pen.rectangle((box.x, box.y, box.x + box.width - 1, box.y + box.height - 1), fill=colour, outline=edge)


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
