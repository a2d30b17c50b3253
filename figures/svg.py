"""A layout as SVG: live text, cells embedded as PNG with every pixel."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path

from PIL import Image

from .cells import Index
from .draw import placed_images
from .files import replacing
from .fonts import FAMILY_NAMES, Face
from .layout import Box, CellBox, Layout, Rule, TextRun

_FALLBACKS = {"sans": "Verdana, sans-serif", "serif": "'Bitstream Vera Serif', serif"}


def save_svg(layout: Layout, image_at: Callable[[Index], Image.Image | None], path: Path) -> None:
    """Write the page, sized in mm, to `path`.

    image_at: a cell's image by its index. Text stays text in DejaVu or the reader's own font, held to the
    width that was measured, so that it never runs into a neighbour. Raises OSError, naming the file.
    """
    with replacing(path) as file:
        for piece in _pieces(layout, image_at):
            file.write(piece.encode("utf-8"))


def _pieces(layout: Layout, image_at: Callable[[Index], Image.Image | None]) -> Iterator[str]:
    style = layout.style
    width_mm, height_mm = layout.size_mm
    yield '<?xml version="1.0" encoding="UTF-8"?>\n<svg xmlns="http://www.w3.org/2000/svg" '
    yield f'width="{width_mm:.3f}mm" height="{height_mm:.3f}mm" viewBox="0 0 {layout.width} {layout.height}" '
    yield f"font-family=\"'{FAMILY_NAMES[style.font]}', {_FALLBACKS[style.font]}\">\n"
    for tag, text in (("title", style.title), ("desc", style.caption)):
        if text.strip():
            yield f"<{tag}>{escape(text)}</{tag}>\n"
    yield f'<rect width="{layout.width}" height="{layout.height}" fill="{style.palette.page}"/>\n'
    for cell, image in placed_images(layout, image_at):
        yield _missing(cell, layout) if image is None else _embedded(cell, image)
    for rule in layout.rules:
        yield _rule(rule, style.palette.rule)
    for run in layout.texts:
        yield _text(run, layout)
    yield "</svg>\n"


def _place(box: Box) -> str:
    return f'x="{box.x}" y="{box.y}" width="{box.width}" height="{box.height}"'


def _embedded(cell: CellBox, image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "png")
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<image {_place(cell.box)} preserveAspectRatio="none" href="data:image/png;base64,{data}"/>\n'


def _missing(cell: CellBox, layout: Layout) -> str:
    palette, box = layout.style.palette, cell.box
    inner = f'x="{box.x + 0.5}" y="{box.y + 0.5}" width="{box.width - 1}" height="{box.height - 1}"'
    return f'<rect {inner} fill="{palette.box}" stroke="{palette.box_edge}"/>\n'


def _rule(rule: Rule, colour: str) -> str:
    return f'<rect {_place(rule.box)} fill="{colour}"/>\n'


def _text(run: TextRun, layout: Layout) -> str:
    measured = Face(layout.style.font, run.size, run.bold).font.getlength(run.text)
    attributes = [
        f'x="{run.x:.1f}" y="{run.y:.1f}" font-size="{run.size}" text-anchor="{run.anchor}"',
        f'fill="{layout.ink(run)}"',
        f'textLength="{measured:.1f}" lengthAdjust="spacingAndGlyphs"',
    ]
    if run.bold:
        attributes.append('font-weight="bold"')
    if run.turned:
        attributes.append(f'transform="rotate(-90 {run.x:.1f} {run.y:.1f})"')
    return f"<text {' '.join(attributes)}>{escape(run.text)}</text>\n" if run.text else ""
