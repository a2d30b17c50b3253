"""How a chart looks: size, type and the words on it, in English or Croatian."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from .fonts import FAMILY_NAMES, Family
from .measure import POINTS_PER_INCH
from .style import Theme, palette_of

Language = Literal["en", "hr"]
_REFERENCE = (960, 540)  # px at which text is set at _SCREEN_PT
_SCREEN_DPI = 100
_SCREEN_PT = 10.5
_PRINT_PT = 8.5
_MM_PER_INCH = 25.4
_LEAST_MM = 40


@dataclass(frozen=True)
class Words:
    """What stands on a chart; {n} is a number of steps, as ``steps`` counts them.

    last_digit: whether the language takes ``one`` by a number's last digit, as Croatian does: 21 korak, 11 koraka.
    """

    step: str
    loss: str
    mean: str
    held_out: str
    rate: str
    above: str
    broken: str
    nothing: str
    one: str
    many: str
    decimal: str
    last_digit: bool = False

    def steps(self, count: int) -> str:
        """``1 step``, ``2 steps``."""
        alone = count % 10 == 1 and count % 100 != 11 if self.last_digit else count == 1
        return f"{count} {self.one if alone else self.many}"


WORDS: dict[str, Words] = {
    "en": Words(
        "step", "loss", "running mean over {n}", "held-out loss", "learning rate", "above the axis ({n})",
        "not finite ({n})", "no step had a finite loss", "step", "steps", ".",
    ),
    "hr": Words(
        "korak", "gubitak", "klizni prosjek kroz {n}", "gubitak na izdvojenim slikama", "stopa učenja",
        "iznad osi ({n})", "bez konačne vrijednosti ({n})", "nijedan korak nema konačan gubitak", "korak", "koraka",
        ",", last_digit=True,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class ChartStyle:
    """A chart's look. Raises ValueError for what cannot be drawn.

    smoothing: steps in the running mean; None takes a fortieth of the run, 1 draws no mean.
    width_px, height_px: of the image. width_mm: printed width, for which text is then set; None: a screen.
    """

    title: str = ""
    smoothing: int | None = None
    width_px: int = 960
    height_px: int = 540
    width_mm: float | None = None
    theme: Theme = "light"
    font: Family = "sans"
    language: Language = "en"

    def __post_init__(self) -> None:
        palette_of(self.theme)
        if self.font not in FAMILY_NAMES:
            raise ValueError(f'"{self.font}" is not a font here; use {" or ".join(FAMILY_NAMES)}.')
        if self.language not in WORDS:
            raise ValueError(f'The language of a chart is {" or ".join(WORDS)}, not "{self.language}".')
        if self.smoothing is not None and self.smoothing < 1:
            raise ValueError(f"The smoothing is {self.smoothing} steps; it must be at least 1.")
        if self.width_px < 200 or self.height_px < 150:
            size = f"{self.width_px} × {self.height_px}"
            raise ValueError(f"A loss chart of {size} px is too small; use at least 200 × 150.")
        if self.width_mm is not None and not (math.isfinite(self.width_mm) and self.width_mm >= _LEAST_MM):
            raise ValueError(f"The printed width is {self.width_mm:g} mm; use at least {_LEAST_MM}, or 0 for a screen.")

    @property
    def words(self) -> Words:
        return WORDS[self.language]

    @property
    def dpi(self) -> float:
        """Pixels an inch: of the print, or so many that text on a screen grows with the picture."""
        if self.width_mm is not None:
            return self.width_px / (self.width_mm / _MM_PER_INCH)
        scale = min(self.width_px / _REFERENCE[0], self.height_px / _REFERENCE[1])
        return _SCREEN_DPI * max(0.75, scale)

    @property
    def inches(self) -> tuple[float, float]:
        """(width, height)."""
        return self.width_px / self.dpi, self.height_px / self.dpi

    @property
    def text_pt(self) -> float:
        """Size of the axes' labels in points."""
        return _SCREEN_PT if self.width_mm is None else _PRINT_PT

    @property
    def line(self) -> float:
        """What widths of lines and marks, given for a screen, are multiplied by."""
        return self.text_pt / _SCREEN_PT

    @property
    def pad(self) -> float:
        """Inches around the chart."""
        return 0.12 if self.width_mm is None else 2 / POINTS_PER_INCH
