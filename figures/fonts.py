"""DejaVu, as matplotlib ships it: the same glyphs on every machine, č ć đ š ž among them.

Only the files are taken; matplotlib itself is not imported.
"""

from __future__ import annotations

import importlib.util
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from PIL import ImageFont

Family = Literal["sans", "serif"]
FAMILY_NAMES: dict[str, str] = {"sans": "DejaVu Sans", "serif": "DejaVu Serif"}
LINE_HEIGHT = 1.25  # of the font size; DejaVu's own ascent and descent add up to 1.164

_STEMS = {"sans": "DejaVuSans", "serif": "DejaVuSerif"}


def font_path(family: Family = "sans", bold: bool = False) -> Path:
    """The TrueType file of a face; ValueError for another family, FileNotFoundError without matplotlib."""
    if family not in _STEMS:
        raise ValueError(f'"{family}" is not a font here; use {" or ".join(_STEMS)}.')
    spec = importlib.util.find_spec("matplotlib")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("The figure fonts come with matplotlib; install it with: pip install matplotlib")
    folder = Path(next(iter(spec.submodule_search_locations))) / "mpl-data" / "fonts" / "ttf"
    return folder / f"{_STEMS[family]}{'-Bold' if bold else ''}.ttf"


@lru_cache(maxsize=64)
def load_font(family: Family, bold: bool, size: int) -> ImageFont.FreeTypeFont:
    """A face at `size` px. Basic layout, because Raqm is not everywhere and would shift pixels."""
    return ImageFont.truetype(str(font_path(family, bold)), size, layout_engine=ImageFont.Layout.BASIC)


def clean(text: str) -> str:
    """Composed characters (c + caron becomes č), no control characters, runs of blanks as one, lines kept."""
    composed = unicodedata.normalize("NFC", text)
    lines = (re.sub(r"\s+", " ", line).strip() for line in composed.splitlines())
    kept = ("".join(char for char in line if unicodedata.category(char)[0] != "C") for line in lines)
    return "\n".join(kept).strip("\n")


@lru_cache(maxsize=8)
def _glyphs(family: Family, bold: bool) -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(str(font_path(family, bold))).get_charmap())


def missing_glyphs(text: str, family: Family = "sans", bold: bool = False) -> str:
    """The characters of `text` that the font cannot draw, each once, in order."""
    glyphs = _glyphs(family, bold)
    return "".join(dict.fromkeys(char for char in clean(text) if char != "\n" and ord(char) not in glyphs))


def is_number(text: str) -> bool:
    return re.fullmatch(r"[+\-−]?\d[\d.,]*(?:e[+-]?\d+)?", text) is not None


@dataclass(frozen=True)
class Face:
    """A font at a size in px: measures and wraps text with the font's own metrics."""

    family: Family
    size: int
    bold: bool = False

    @property
    def font(self) -> ImageFont.FreeTypeFont:
        return load_font(self.family, self.bold, self.size)

    @property
    def line_height(self) -> int:
        return round(self.size * LINE_HEIGHT)

    @property
    def baseline(self) -> int:
        """Distance from the top of a line to its baseline, in px."""
        ascent, descent = self.font.getmetrics()
        return round((self.line_height - ascent - descent) / 2) + ascent

    def width(self, text: str) -> float:
        """Advance width in px, or ink width where that is larger."""
        left, _, right, _ = self.font.getbbox(text)
        return max(self.font.getlength(text), right - min(left, 0))

    def widest(self, lines: tuple[str, ...]) -> int:
        return max((int(-(-self.width(line) // 1)) for line in lines), default=0)

    def wrap(self, text: str, limit: float) -> tuple[str, ...]:
        """Lines no wider than `limit` px, no text lost: breaks at blanks, else after -_/., else anywhere.

        A number is never broken, though it be wider.
        """
        lines: list[str] = []
        for paragraph in clean(text).split("\n"):
            line = ""
            for piece in re.findall(r"\s*\S+", paragraph):
                if self.width(line + piece) <= limit or not (line + piece).strip():
                    line += piece
                    continue
                *full, line = self._break(line, piece.strip(), limit)
                lines += full
            lines.append(line)
        return tuple(line.strip() for line in lines)

    def most_lines(self, texts: Sequence[str], limit: float) -> int:
        """Lines of the one of `texts` that takes the most of them, each wrapped to `limit` px."""
        return max((len(self.wrap(text, limit)) for text in texts), default=0)

    def _break(self, line: str, word: str, limit: float) -> list[str]:
        """`line` and then `word` on as many lines as it takes; the last one may be continued."""
        # half a number is another number
        if self.width(word) <= limit or is_number(word):
            return [line, word] if line else [word]
        done = [line] if line else []
        current = ""
        for part in re.findall(r"[^-_/\\.,;]*[-_/\\.,;]+|[^-_/\\.,;]+", word):
            if current and self.width(current + part) > limit:
                done.append(current)
                current = ""
            for char in part:
                if current and self.width(current + char) > limit:
                    done.append(current)
                    current = ""
                current += char
        return [*done, current]

    def shorten(self, text: str, limit: float, most_lines: int) -> tuple[str, ...]:
        """At most `most_lines` wrapped lines; what is left out shows as an ellipsis."""
        lines = self.wrap(text, limit)
        if len(lines) <= most_lines:
            return lines
        kept = list(lines[:most_lines])
        while kept[-1] and self.width(kept[-1] + "…") > limit:
            kept[-1] = kept[-1][:-1]
        kept[-1] = kept[-1].rstrip(" ,.;-") + "…"
        return tuple(kept)
