"""Column and row headers: parameter names and values, nested where several axes share a side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .arrange import Line, Side
from .axes import Axis
from .fonts import is_number
from .layout import Block, Rule, TextRun
from .measure import Metrics
from .standing import UPRIGHT_EM

# em: label to values, values to cells, level to level; the same beside rows
LABEL_GAP, VALUE_GAP, LEVEL_GAP = 0.15, 0.35, 0.3
LABEL_SIDE_GAP, VALUE_SIDE_GAP = 0.35, 0.5


@dataclass(frozen=True)
class Span:
    """Neighbouring lines of cells that share a value: lines start … stop - 1 and the value's text."""

    start: int
    stop: int
    text: str


def spans(axes: Sequence[Axis], side: Side, lines: Sequence[Line], level: int) -> tuple[Span, ...]:
    """Runs of `lines` alike in the axes up to `level`; a repeated value of one axis stays apart."""
    found: list[Span] = []
    texts = axes[side.axes[level]].texts
    for number, line in enumerate(lines):
        if number and lines[number - 1][: level + 1] == line[: level + 1]:
            found[-1] = Span(found[-1].start, number + 1, found[-1].text)
        else:
            found.append(Span(number, number + 1, texts[line[level]]))
    return tuple(found)


def gaps_between(lines: Sequence[Line], gap: int, between_groups: int) -> list[int]:
    """px between neighbouring lines, more where the value of an outer axis changes."""
    pairs = zip(lines, lines[1:], strict=False)
    return [gap if one[:-1] == next_one[:-1] else between_groups for one, next_one in pairs]


@dataclass(frozen=True)
class Track:
    """Start and length in px of each column or row, in one direction."""

    starts: tuple[int, ...]
    lengths: tuple[int, ...]

    @classmethod
    def of(cls, lengths: Sequence[int], gaps: Sequence[int], origin: int = 0) -> Track:
        """`gaps` holds the px between each line and the next, one fewer than there are lines."""
        starts, at = [], origin
        for length, gap in zip(lengths, [*gaps, 0], strict=True):
            starts.append(at)
            at += length + gap
        return cls(tuple(starts), tuple(lengths))

    @property
    def end(self) -> int:
        return self.starts[-1] + self.lengths[-1]

    @property
    def total(self) -> int:
        return self.end - self.starts[0]

    @property
    def middle(self) -> float:
        return (self.starts[0] + self.end) / 2

    def reach(self, span: Span) -> tuple[int, int]:
        """First and one past the last px of the span's lines."""
        return self.starts[span.start], self.starts[span.stop - 1] + self.lengths[span.stop - 1]

    def middle_of(self, span: Span) -> float:
        return sum(self.reach(span)) / 2

    def length_of(self, span: Span) -> int:
        start, end = self.reach(span)
        return end - start


@dataclass(frozen=True)
class ColumnHeaders:
    """The headers above one band of cells; `height` px to the cells' top edge."""

    height: int
    texts: tuple[TextRun, ...]
    rules: tuple[Rule, ...]


def column_headers(
    axes: Sequence[Axis], side: Side, lines: Sequence[Line], track: Track,
    metrics: Metrics, top: int, *, labelled: bool, upright: bool,
) -> ColumnHeaders:  # fmt: skip
    """Values centred above their columns, standing on the cells; the parameter's label above them.

    upright: whether the innermost ones read upwards.
    """
    texts: list[TextRun] = []
    rules: list[Rule] = []
    y = top
    for level, number in enumerate(side.axes):
        if labelled and axes[number].label.strip():
            label = metrics.block(axes[number].label, "label", track.total)
            texts += label.at(track.middle, y)
            y += label.height + metrics.em(LABEL_GAP)
        shared = spans(axes, side, lines, level)
        if not any(span.text.strip() for span in shared):
            continue
        if upright and level == len(side.axes) - 1:
            values, height = _upright_values(shared, track, metrics, y)
        else:
            values, height = _level_values(shared, track, metrics, y)
        texts += values
        y += height + metrics.em(VALUE_GAP)
        if level < len(side.axes) - 1:
            weight = max(1, metrics.em(0.06))
            rules += [Rule(*_flat(track.reach(span), y), weight) for span in shared]
            y += weight + metrics.em(LEVEL_GAP)
    return ColumnHeaders(y - top, tuple(texts), tuple(rules))


def _level_values(shared: Sequence[Span], track: Track, metrics: Metrics, y: int) -> tuple[list[TextRun], int]:
    blocks = [metrics.block(span.text, "value", track.length_of(span)) for span in shared]
    height = max(block.height for block in blocks)
    placed = zip(shared, blocks, strict=True)
    return [run for span, block in placed for run in block.at(track.middle_of(span), y + height - block.height)], height


def _upright_values(shared: Sequence[Span], track: Track, metrics: Metrics, y: int) -> tuple[list[TextRun], int]:
    """Each value reads upwards and begins at the cells."""
    blocks = [metrics.block(span.text, "value", metrics.em(UPRIGHT_EM)) for span in shared]
    height = max(block.width for block in blocks)
    texts: list[TextRun] = []
    for span, block in zip(shared, blocks, strict=True):
        texts += block.turned_from(round(track.middle_of(span) - block.height / 2), y + height)
    return texts, height


def _flat(reach: tuple[int, int], y: int) -> tuple[int, int, int, int]:
    return reach[0], y, reach[1] - 1, y


def least_column_widths(axes: Sequence[Axis], side: Side, lines: Sequence[Line], metrics: Metrics) -> list[int]:
    """What each column needs lest short values break within a word: their width, at most 4 em, numbers all of it."""
    if not side.axes:
        return [0] * len(lines)
    face = metrics.face("value")
    innermost = spans(axes, side, lines, len(side.axes) - 1)
    most = [None if is_number(span.text) else metrics.em(4) for span in innermost]
    widths = [face.widest((span.text,)) for span in innermost]
    return [width if limit is None else min(width, limit) for width, limit in zip(widths, most, strict=True)]


@dataclass(frozen=True)
class RowHeaders:
    """The headers to the left of a band: blocks of each level, outermost first, and their widths."""

    levels: tuple[tuple[tuple[Span, Block], ...], ...]
    labels: tuple[str, ...]
    widths: tuple[int, ...]

    def label_blocks(self, metrics: Metrics, length: int) -> tuple[Block, ...]:
        """The labels wrapped to `length` px, the extent of the rows that they run along."""
        return tuple(metrics.block(label, "label", length) for label in self.labels)

    def width(self, metrics: Metrics, length: int) -> int:
        """px from the left edge of the headers to the cells."""
        labels = sum(_beside(block, metrics) for block in self.label_blocks(metrics, length))
        between = (metrics.em(LEVEL_GAP) + metrics.em(0.06)) * max(0, len(self.levels) - 1)
        return labels + sum(self.widths) + metrics.em(VALUE_SIDE_GAP) * len(self.levels) + between

    def least_heights(self, heights: Sequence[int], gaps: Sequence[int], metrics: Metrics) -> list[int]:
        """Row heights, raised where a header is longer than the rows that it stands beside."""
        raised = list(heights)
        for level in reversed(self.levels):
            for span, block in level:
                have = sum(raised[span.start : span.stop]) + sum(gaps[span.start : span.stop - 1])
                raised[span.stop - 1] += max(0, block.height - have)
        words = [word for label in self.labels for word in label.split()]
        longest = min(metrics.face("label").widest(tuple(words)), metrics.em(8))
        raised[-1] += max(0, longest - sum(raised) - sum(gaps))
        return raised


def _beside(label: Block, metrics: Metrics) -> int:
    """px that a label takes to the left of its values; one that is blank takes none."""
    return label.height + metrics.em(LABEL_SIDE_GAP) if any(label.lines) else 0


def row_headers(
    axes: Sequence[Axis], side: Side, lines: Sequence[Line], metrics: Metrics, cell_width: float
) -> RowHeaders:
    """Wrap the row values to about a cell's width, but to no less than 9 em and no more than 18; numbers never."""
    limit = min(max(metrics.em(9), 0.8 * cell_width), metrics.em(18))
    levels, widths = [], []
    for level in range(len(side.axes)):
        shared = spans(axes, side, lines, level)
        blocks = [metrics.block(span.text, "value", limit) for span in shared]
        levels.append(tuple(zip(shared, blocks, strict=True)))
        widths.append(max(block.width for block in blocks))
    return RowHeaders(tuple(levels), tuple(axes[number].label for number in side.axes), tuple(widths))


def place_row_headers(
    headers: RowHeaders, track: Track, metrics: Metrics, left: int
) -> tuple[list[TextRun], list[Rule]]:
    """Values right-aligned beside their rows, each level's label turned to read upwards."""
    texts: list[TextRun] = []
    rules: list[Rule] = []
    x = left
    for number, (level, label) in enumerate(
        zip(headers.levels, headers.label_blocks(metrics, track.total), strict=True)
    ):
        texts += label.turned_at(x, track.middle) if any(label.lines) else []
        x += _beside(label, metrics) + headers.widths[number]
        for span, block in level:
            texts += block.at(x, track.middle_of(span) - block.height / 2, "end")
        x += metrics.em(VALUE_SIDE_GAP)
        if number < len(headers.levels) - 1:
            weight = max(1, metrics.em(0.06))
            rules += [_upright(track.reach(span), x, weight) for span, _ in level]
            x += metrics.em(0.06) + metrics.em(LEVEL_GAP)
    return texts, rules


def _upright(reach: tuple[int, int], x: int, weight: int) -> Rule:
    return Rule(x, reach[0], x, reach[1] - 1, weight)
