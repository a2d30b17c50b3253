"""How values stand above their columns: level, upright where they are many and narrow, or as numbers of a legend."""

from __future__ import annotations

from typing import Literal

from .measure import Metrics
from .page import Page

Standing = Literal["level", "upright", "numbered"]

# fewer columns than these always have level values, in as many lines as it takes
MANY_COLUMNS = 8
LEVEL_LINES = 6
# a reader turns the head for a name, not for a sentence
UPRIGHT_LINES, UPRIGHT_EM = 2, 14


def standing(page: Page, metrics: Metrics) -> Standing:
    """How the innermost values stand over the page's columns: whole in any case."""
    side = page.arrangement.columns
    if len(page.column_widths) < MANY_COLUMNS or not side.axes:
        return "level"
    face, narrowest, texts = metrics.face("value"), min(page.column_widths), page.axes[side.axes[-1]].texts
    words = tuple(word for text in texts for word in text.split())
    if face.widest(words) + metrics.em(0.3) <= narrowest and face.most_lines(texts, narrowest) <= LEVEL_LINES:
        return "level"
    side_by_side = min(UPRIGHT_LINES, max(1, narrowest // face.line_height))
    return "upright" if face.most_lines(texts, metrics.em(UPRIGHT_EM)) <= side_by_side else "numbered"
