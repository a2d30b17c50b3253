"""Values too long to stand above many columns: numbers stand there, and a list below the figure says what they are."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .layout import TextRun
from .measure import Metrics
from .page import Page
from .standing import standing

# em: number to text, and one column of the list to the next
NUMBER_GAP, COLUMN_GAP = 0.6, 2.0


@dataclass(frozen=True)
class Legend:
    """The values of one axis in order, and its label; the first is number 1."""

    label: str
    values: tuple[str, ...]

    def place(self, metrics: Metrics, left: int, top: int, width: int) -> tuple[list[TextRun], int]:
        """Below its label, in as many columns as hold every value on one line, else in one; the lower edge too."""
        texts: list[TextRun] = []
        if self.label.strip():
            label = metrics.block(self.label, "label", width)
            texts += label.at(left, top, "start")
            top += label.height
        face, gap = metrics.face("legend"), metrics.em(COLUMN_GAP)
        indent = face.widest((str(len(self.values)),)) + metrics.em(NUMBER_GAP)
        across = max(1, (width + gap) // (indent + face.widest(self.values) + gap))
        each = (width + gap) // across - gap
        down = -(-len(self.values) // across)
        bottom = top
        for start in range(0, len(self.values), down):
            x, y = left + start // down * (each + gap), top
            for number, value in enumerate(self.values[start : start + down], start + 1):
                texts += metrics.block(str(number), "legend", indent).at(x + indent - metrics.em(NUMBER_GAP), y, "end")
                block = metrics.block(value, "legend", each - indent)
                texts += block.at(x + indent, y, "start")
                y += block.height
            bottom = max(bottom, y)
        return texts, bottom


def with_legend(page: Page, metrics: Metrics) -> tuple[Page, Legend | None]:
    """The page with numbers in place of its innermost columns' values, if those cannot stand above them."""
    if standing(page, metrics) != "numbered":
        return page, None
    inner = page.axes[page.arrangement.columns.axes[-1]]
    numbers = [str(number) for number in range(1, len(inner) + 1)]
    axes = [inner.with_label(inner.label, numbers) if axis is inner else axis for axis in page.axes]
    return replace(page, axes=axes), Legend(inner.label, inner.texts)
