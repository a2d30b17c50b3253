"""One number a cell as a heat map: seconds, saturation, distance to a reference cell, …"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from PIL import Image

from .axes import Axis
from .cells import Index
from .fonts import Face
from .layout import Box, Layout, TextRun
from .place import NOT_MADE
from .plan import plan_pages
from .style import FigureStyle

_DEFAULT_STYLE = FigureStyle()
_NO_VALUE = "no value"
_LIGHT_INK, _DARK_INK = "#ffffff", "#111111"

Colour = tuple[int, int, int]


def plan_heat_map(
    axes: Sequence[Axis],
    values: Mapping[Index, float | None],
    style: FigureStyle = _DEFAULT_STYLE,
    *,
    cell_size: tuple[int, int] = (112, 72),
    digits: int = 3,
    spreads: Mapping[Index, float | None] | None = None,
) -> tuple[tuple[Layout, ...], Callable[[Index], Image.Image | None]]:
    """Pages and cell images for `render`, `save_svg` and `save_pdf`.

    values: by cell index; absent, None and not finite ones are drawn as missing. Colours run from the least
    to the greatest value (viridis: legible in grey and to the colour-blind), alike on all pages.
    cell_size: px. digits: significant ones of the greatest value; all have as many decimals as that one takes.
    spreads: printed after ± below the values.
    """
    finite = {index: value for index, value in values.items() if value is not None and math.isfinite(value)}
    told = {index: [text] for index, text in zip(finite, _numbers(list(finite.values()), digits), strict=True)}
    more = {index: spread for index in finite if (spread := (spreads or {}).get(index)) is not None}
    for index, text in zip(more, _numbers(list(more.values()), 2), strict=True):
        told[index].append(f"± {text}")
    colours = dict(zip(finite, _viridis(list(finite.values())), strict=True))
    pages = plan_pages(axes, dict.fromkeys(finite, cell_size), style)
    swatches = {index: Image.new("RGB", cell_size, colour) for index, colour in colours.items()}
    return tuple(_with_numbers(page, told, colours) for page in pages), swatches.get


def _with_numbers(page: Layout, told: Mapping[Index, Sequence[str]], colours: Mapping[Index, Colour]) -> Layout:
    texts = [
        replace(run, text=_NO_VALUE) if run.role == "reason" and run.text == NOT_MADE else run for run in page.texts
    ]
    shown = [cell for cell in page.cells if cell.index in told]
    size = _number_size(page, [line for cell in shown for line in told[cell.index]])
    for cell in shown:
        texts += _centred(page.style, cell.box, told[cell.index], size, _ink_on(colours[cell.index]))
    return replace(page, texts=tuple(texts))


def _viridis(values: Sequence[float]) -> list[Colour]:
    from matplotlib import colormaps

    if not values:
        return []
    low, high = min(values), max(values)
    span = high - low
    shares = [(value - low) / span if span else 0.5 for value in values]
    rows = colormaps["viridis"](shares, bytes=True)
    return [(int(red), int(green), int(blue)) for red, green, blue, _ in rows]


def _numbers(values: Sequence[float], digits: int) -> list[str]:
    """All with the decimals of the greatest, or more where they would then be alike; each in its own way if that
    takes too many."""
    greatest = max((abs(value) for value in values), default=0.0)
    if greatest == 0 or not 1e-4 <= greatest < 10**digits:
        return [_number(value, digits) for value in values]
    first = max(0, digits - 1 - math.floor(math.log10(greatest)))
    for decimals in range(first, first + 3):
        texts = [f"{value:.{decimals}f}" for value in values]
        if all(float(text) or not value for text, value in zip(texts, values, strict=True)):
            return texts
    return [_number(value, digits) for value in values]


def _number(value: float, digits: int) -> str:
    """`digits` significant digits, in full where that takes no more than a few zeros."""
    if value == 0 or 1e-4 <= abs(value) < 10**digits:
        decimals = digits - 1 - (math.floor(math.log10(abs(value))) if value else 0)
        return f"{value:.{max(0, decimals)}f}"
    return f"{value:.0f}" if abs(value) < 1e7 and abs(value) >= 1 else f"{value:.{digits - 1}e}"


def _number_size(layout: Layout, texts: Sequence[str]) -> int:
    """The largest size, up to a fourth above the headers', at which every number fits its cell."""
    headers = [run.size for run in layout.texts if run.role == "value"]
    size = round(1.25 * max(headers, default=13))
    width = min((cell.box.width for cell in layout.cells), default=0)
    while size > 6 and Face(layout.style.font, size).widest(tuple(texts)) > 0.9 * width:
        size -= 1
    return size


def _centred(style: FigureStyle, box: Box, lines: Sequence[str], size: int, colour: str) -> list[TextRun]:
    face = Face(style.font, size)
    digit_height = -face.font.getbbox("0", anchor="ls")[1]
    x, first = box.x + box.width / 2, box.y + (box.height + digit_height - (len(lines) - 1) * face.line_height) / 2
    return [
        TextRun(text, x, first + number * face.line_height, size, False, "middle", "value", colour=colour)
        for number, text in enumerate(lines)
    ]


def _ink_on(colour: Colour) -> str:
    """Black or white, whichever has more contrast with `colour` (WCAG relative luminance)."""
    linear = [(c / 255 / 12.92) if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return _DARK_INK if luminance > 0.179 else _LIGHT_INK
