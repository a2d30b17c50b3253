"""Many images at a glance: thumbnails of one size, captions below them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw

from .fonts import Face
from .style import Theme, palette_of

CAPTION_LINES = 2


def contact_sheet(
    images: Sequence[Image.Image],
    captions: Sequence[str],
    *,
    columns: int | None = None,
    thumb: int = 160,
    theme: Theme = "light",
    note: str = "",
) -> Image.Image:
    """Thumbnails in reading order, each whole and in proportion within a `thumb` px square.

    captions: one for each image, "" for none; at most two lines are shown, then an ellipsis.
    columns: None takes about as many columns as rows, a little wider than high. note: a line below.
    Raises ValueError for no images, another number of captions, columns below 1 or thumb below 16.
    """
    if not images:
        raise ValueError("A contact sheet needs at least one image.")
    if len(captions) != len(images):
        raise ValueError(f"There are {len(images)} images but {len(captions)} captions; give one for each.")
    if thumb < 16 or (columns is not None and columns < 1):
        raise ValueError(f"A contact sheet needs thumb ≥ 16 and columns ≥ 1, not {thumb} and {columns}.")
    across = min(columns or math.ceil(math.sqrt(1.3 * len(images))), len(images))
    return _draw(images, captions, across, thumb, theme, note)


def _draw(
    images: Sequence[Image.Image], captions: Sequence[str], across: int, thumb: int, theme: Theme, note: str
) -> Image.Image:
    face = Face("sans", max(11, round(thumb * 0.075)))
    gap, margin, palette = max(6, thumb // 14), max(10, thumb // 10), palette_of(theme)
    lines = [face.shorten(caption, thumb, CAPTION_LINES) for caption in captions]
    starts = range(0, len(images), across)
    deepest = [max(_line_count(text) for text in lines[start : start + across]) for start in starts]
    text_gap = face.size // 3
    heights = [thumb + (text_gap + count * face.line_height if count else 0) for count in deepest]

    width = 2 * margin + across * thumb + (across - 1) * gap
    notes = face.wrap(note, width - 2 * margin) if note.strip() else ()
    note_height = gap + len(notes) * face.line_height if notes else 0
    height = 2 * margin + sum(heights) + gap * (len(heights) - 1) + note_height
    sheet = Image.new("RGB", (width, height), palette.page)
    pen = ImageDraw.Draw(sheet)

    y = margin
    for row, start in enumerate(starts):
        for column, image in enumerate(images[start : start + across]):
            x = margin + column * (thumb + gap)
            _paste(sheet, image, x, y, thumb, palette.box)
            below = y + thumb + text_gap
            _write(pen, lines[start + column], (x + thumb / 2, below), face, palette.text, "ms")
        y += heights[row] + gap
    _write(pen, notes, (margin, y), face, palette.muted, "ls")
    return sheet


def _line_count(lines: Sequence[str]) -> int:
    return len(lines) if any(lines) else 0


def _paste(sheet: Image.Image, image: Image.Image, x: int, y: int, thumb: int, box: str) -> None:
    """The image in the middle of a `thumb` px square of the colour `box`."""
    scale = thumb / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    small = image.convert("RGBA").resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
    sheet.paste(box, (x, y, x + thumb, y + thumb))
    sheet.paste(small.convert("RGB"), (x + (thumb - size[0]) // 2, y + (thumb - size[1]) // 2), small.getchannel("A"))


def _write(
    pen: ImageDraw.ImageDraw,
    lines: Sequence[str],
    at: tuple[float, float],
    face: Face,
    colour: str,
    anchor: str,
) -> None:
    for number, line in enumerate(lines):
        y = at[1] + face.baseline + number * face.line_height
        pen.text((round(at[0]), round(y)), line, fill=colour, font=face.font, anchor=anchor)
