"""Place cells, headers, title, caption and notes of one page at a given font size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from .arrange import Line
from .cells import Index
from .glyphs import text_warnings
from .headers import (
    RowHeaders,
    Track,
    column_headers,
    gaps_between,
    least_column_widths,
    place_row_headers,
    row_headers,
)
from .layout import Block, Box, CellBox, Layout, Role, Rule, TextRun
from .legend import Legend, with_legend
from .measure import SMALLEST, Metrics, print_dpi
from .page import Page
from .standing import standing

NOT_MADE = "no image"
NARROWEST = 22  # em: title and caption may widen a small figure to this


@dataclass
class _Sheet:
    """What has been placed so far, in px from the top left of the grid."""

    cells: list[CellBox] = field(default_factory=list)
    texts: list[TextRun] = field(default_factory=list)
    rules: list[Rule] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    tags: int = 0
    legend: Legend | None = None


def lay_out(page: Page, metrics: Metrics) -> Layout:
    """The page with headers of `metrics.size` px."""
    page, legend = with_legend(page, metrics)
    upright = standing(page, metrics) == "upright"
    sheet = _Sheet(legend=legend)
    headers = row_headers(page.axes, page.arrangement.rows, page.rows, metrics, max(page.column_widths))
    tag = _tag_height(page, metrics)
    gaps = gaps_between(page.rows, metrics.gap + tag, metrics.group_gap + tag)
    heights = [headers.least_heights(band, gaps, metrics) for band in page.row_heights]
    left = max(headers.width(metrics, sum(band) + sum(gaps)) for band in heights)
    columns = _columns(page, metrics, left, upright)
    y = 0
    for number, lines in enumerate(page.bands):
        band = _Band(page, metrics, headers, lines, number, upright)
        y = band.place(sheet, columns, heights[number], gaps, y + (metrics.em(1.0) if number else 0))
    return _assemble(page, sheet, metrics, columns.end, y)


def _tag_height(page: Page, metrics: Metrics) -> int:
    return metrics.em(0.2) + metrics.face("tag").line_height if page.style.tags else 0


def _tag_width(page: Page, metrics: Metrics) -> int:
    """What no tag of the page exceeds, with a blank to the next one; 0 without tags."""
    if not page.style.tags:
        return 0
    last = letters(len(page.rows) * sum(len(lines) for lines in page.bands) - 1)
    return metrics.face("tag").widest((f"({'m' * len(last)})",)) + metrics.em(0.3)


def _columns(page: Page, metrics: Metrics, left: int, upright: bool) -> Track:
    tag = _tag_width(page, metrics)
    widths = [max(width, tag) for width in page.column_widths]
    side = page.arrangement.columns
    # upright values need no more than the height of a line
    if upright:
        widths = [max(width, metrics.face("value").line_height) for width in widths]
    for lines in page.bands if not upright else ():
        least = least_column_widths(page.axes, side, lines, metrics)
        widths[: len(lines)] = [max(pair) for pair in zip(widths, least, strict=False)]
    found = [gaps_between(lines, metrics.gap, metrics.group_gap) for lines in page.bands]
    # bands that part their groups at different columns cannot share wider gaps
    agree = all(gaps == found[0][: len(gaps)] for gaps in found)
    gaps = found[0] if agree else [metrics.gap] * len(found[0])
    return Track.of(widths, gaps, left)


@dataclass(frozen=True)
class _Band:
    """The rows of cells under one run of column headers."""

    page: Page
    metrics: Metrics
    headers: RowHeaders
    lines: Sequence[Line]
    number: int
    upright: bool

    def place(self, sheet: _Sheet, columns: Track, heights: Sequence[int], gaps: Sequence[int], top: int) -> int:
        """Place headers and cells below `top`; returns the lower edge."""
        page, metrics = self.page, self.metrics
        used = Track(columns.starts[: len(self.lines)], columns.lengths[: len(self.lines)])
        above = column_headers(
            page.axes, page.arrangement.columns, self.lines, used, metrics, top,
            labelled=self.number == 0, upright=self.upright,
        )  # fmt: skip
        rows = Track.of(heights, gaps, top + above.height)
        texts, rules = place_row_headers(self.headers, rows, metrics, 0)
        sheet.texts += [*above.texts, *texts]
        sheet.rules += [*above.rules, *rules]
        for row, row_line in enumerate(page.rows):
            for column, line in enumerate(self.lines):
                slot = Box(used.starts[column], rows.starts[row], used.lengths[column], rows.lengths[row])
                self._place_cell(sheet, page.index(row_line, line), (row, column), slot)
        return rows.end + _tag_height(page, metrics)

    def _place_cell(self, sheet: _Sheet, index: Index, at: tuple[int, int], slot: Box) -> None:
        """The image at its own size, below the middle of its header and level with its row's other images."""
        size = self.page.image_sizes.get((self.number, *at))
        column, row = self.page.column_widths[at[1]], self.page.row_heights[self.number][at[0]]
        width, height = size or (column, row)
        # a slot is higher than its row's images where the row's header needs it
        x, y = slot.x + (slot.width - width) // 2, slot.y + (slot.height - row) // 2
        box = Box(x, y, width, height)
        sheet.cells.append(CellBox(index, box, size is None))
        if size is None:
            _place_reason(sheet, box, self.page.failed.get(index, ""), self.metrics)
        if self.page.style.tags:
            tag = self.metrics.block(f"({letters(sheet.tags)})", "tag", slot.width + self.metrics.em(2))
            sheet.texts += tag.at(x + width / 2, slot.y + slot.height + self.metrics.em(0.2))
            sheet.tags += 1


def letters(number: int) -> str:
    """0, 1, … as a, b, …, z, aa, ab, …"""
    text = ""
    number += 1
    while number:
        number, rest = divmod(number - 1, 26)
        text = chr(ord("a") + rest) + text
    return text


def _place_reason(sheet: _Sheet, box: Box, reason: str, metrics: Metrics) -> None:
    """Say in the box why there is no image; what does not fit goes to a numbered note below the figure."""
    text = f"failed\n{reason}" if reason else NOT_MADE
    block = _fitting(text, box, metrics)
    if block is None and reason:
        if reason not in sheet.notes:
            sheet.notes.append(reason)
        mark = f"[{sheet.notes.index(reason) + 1}]"
        block = _fitting(f"failed\n{mark}", box, metrics) or _fitting(mark, box, metrics)
    if block is not None:
        sheet.texts += block.at(box.x + box.width / 2, box.y + (box.height - block.height) / 2)


def _fitting(text: str, box: Box, metrics: Metrics) -> Block | None:
    """`text` in the largest size, of three, in which it fits the box with words unbroken, if there is one."""
    width, height = box.width - metrics.em(0.8), box.height - metrics.em(0.6)
    for scale in (1.0, 0.85, 0.7):
        face = metrics.face("reason", scale)
        if face.size < SMALLEST - 2:
            break
        block = Block(face.wrap(text, width), face, "reason")
        if max(face.width(word) for word in text.split()) <= width and block.height <= height:
            return block
    return None


def _assemble(page: Page, sheet: _Sheet, metrics: Metrics, grid_width: int, grid_height: int) -> Layout:
    """Title above the grid; legend, caption and notes below it; margins around."""
    style, margin = page.style, metrics.margin
    heading: list[tuple[str, Role]] = [(style.title, "title"), (page.heading, "page")]
    notes = [f"[{number}] {reason}" for number, reason in enumerate(sheet.notes, 1)]
    footing: list[tuple[str, Role]] = [(style.caption, "caption"), *((note, "note") for note in notes)]
    natural = [metrics.face(role).widest(tuple(text.splitlines())) for text, role in (*heading, *footing)]
    width = max(grid_width, min(max(natural), metrics.em(NARROWEST)))

    above, y = _placed_heading(heading, metrics, width)
    cells, moved, rules = _moved(sheet, margin + (width - grid_width) // 2, y)
    below, bottom = _placed_footing(sheet.legend, footing, metrics, width, y + grid_height)
    texts = (*above, *moved, *below)
    total = width + 2 * margin
    dpi, warnings = print_dpi(style, total), text_warnings(texts, style.font)
    return Layout(total, bottom + margin, dpi, style, cells, texts, rules, warnings)


def _placed_heading(heading: Sequence[tuple[str, Role]], metrics: Metrics, width: int) -> tuple[list[TextRun], int]:
    """Lines in the middle from the upper margin on, and where the grid begins below them."""
    texts: list[TextRun] = []
    y = metrics.margin
    for text, role in heading:
        if text.strip():
            block = metrics.block(text, role, width)
            texts += block.at(metrics.margin + width / 2, y)
            y += block.height + metrics.em(0.4)
    return texts, y + (metrics.em(0.5) if texts else 0)


def _placed_footing(
    legend: Legend | None, footing: Sequence[tuple[str, Role]], metrics: Metrics, width: int, y: int
) -> tuple[list[TextRun], int]:
    """Lines from the left edge and from `y` on, and their lower edge."""
    texts: list[TextRun] = []
    if legend is not None:
        texts, y = legend.place(metrics, metrics.margin, y + metrics.em(0.8), width)
    for number, (text, role) in enumerate(footing):
        if text.strip():
            block = metrics.block(text, role, width)
            y += metrics.em(0.8 if number < 2 else 0.2)
            texts += block.at(metrics.margin, y, "start")
            y += block.height
    return texts, y


def _moved(sheet: _Sheet, x: int, y: int) -> tuple[tuple[CellBox, ...], list[TextRun], tuple[Rule, ...]]:
    cells = (replace(cell, box=replace(cell.box, x=cell.box.x + x, y=cell.box.y + y)) for cell in sheet.cells)
    texts = [replace(text, x=text.x + x, y=text.y + y) for text in sheet.texts]
    rules = (Rule(rule.x1 + x, rule.y1 + y, rule.x2 + x, rule.y2 + y, rule.weight) for rule in sheet.rules)
    return tuple(cells), texts, tuple(rules)
