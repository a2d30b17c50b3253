"""What a figure's fonts and writers cannot show of its text as it is meant, in sentences."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

from .fonts import FAMILY_NAMES, Family, missing_glyphs
from .layout import TextRun
from .values import quoted

_LAST_KNOWN = 0x24F  # every face has all printable characters up to this one, so that few figures open their tables
_RIGHT_TO_LEFT = ("R", "AL")


def text_warnings(texts: Sequence[TextRun], family: Family) -> tuple[str, ...]:
    """One sentence for each face that lacks characters, and one for text that is written from right to left."""
    unusual = [run for run in texts if any(ord(char) > _LAST_KNOWN for char in run.text)]
    found = [_missing(unusual, family, bold) for bold in (False, True)]
    return tuple(sentence for sentence in (*found, _backwards(unusual)) if sentence)


def _missing(texts: Iterable[TextRun], family: Family, bold: bool) -> str:
    text = "".join(run.text for run in texts if run.bold == bold)
    missing = missing_glyphs(text, family, bold) if text else ""
    name = f"{FAMILY_NAMES[family]}{' Bold' if bold else ''}"
    return f"The font {name} has no glyph for {' '.join(missing)}; a box stands in its place." if missing else ""


def _backwards(texts: Iterable[TextRun]) -> str:
    """Pillow without Raqm, matplotlib and the measuring of lines all take letters in the order of the text."""
    words = dict.fromkeys(word for run in texts for word in run.text.split() if _is_backwards(word))
    if not words:
        return ""
    return (
        f"The figure sets {quoted(' '.join(words))} from left to right, though it is read from right to left; "
        "write it in other letters, or leave it to the document around the figure."
    )


def _is_backwards(word: str) -> bool:
    return any(unicodedata.bidirectional(char) in _RIGHT_TO_LEFT for char in word)
