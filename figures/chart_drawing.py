"""A chart's curves, axes and legend, drawn by matplotlib."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, ScalarFormatter

from .chart_style import ChartStyle
from .curves import PLAIN_LOSS, Curves, thinned
from .fonts import FAMILY_NAMES
from .style import palette_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = {"light": ("#2f6db5", "#c8611a", "#6a6f76"), "dark": ("#7db4f0", "#f0a15c", "#a4a8af")}
_BROKEN = "#d0382b"


def settings_of(style: ChartStyle) -> dict[str, Any]:
    """matplotlib's settings under which a chart is drawn and saved."""
    palette = palette_of(style.theme)
    text = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), palette.text)
    lines = dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), palette.rule)
    return {
        **text, **lines, "figure.facecolor": palette.page, "axes.facecolor": palette.page,
        "font.family": FAMILY_NAMES[style.font], "axes.unicode_minus": False, "text.parse_math": False,
        "text.usetex": False, "axes.linewidth": 0.8 * style.line, "pdf.fonttype": 42, "svg.fonttype": "none",
        # the same names of an SVG's parts each time
        "svg.hashsalt": "mjesec",
    }  # fmt: skip


def draw(curves: Curves, style: ChartStyle) -> Figure:
    """The whole chart, under `settings_of` its style."""
    figure = Figure(figsize=style.inches, dpi=style.dpi, layout="constrained")
    figure.get_layout_engine().set(w_pad=style.pad, h_pad=style.pad)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _Drawing(axes, curves, style).all()
    _legend(figure, style)
    # laid out once and for all: each drawing would shift it a little further
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return figure


class _Numbers(ScalarFormatter):
    """Numbers on an axis with the language's decimal mark."""

    def __init__(self, mark: str) -> None:
        super().__init__()
        self._mark = mark

    def __call__(self, value: float, position: int | None = None) -> str:
        return super().__call__(value, position).replace(".", self._mark)


class _Drawing:
    def __init__(self, axes: Axes, curves: Curves, style: ChartStyle) -> None:
        self.axes, self.curves, self.style, self.words = axes, curves, style, style.words
        self.colours = _COLOURS[style.theme]
        self.paper = palette_of(style.theme)

    def all(self) -> None:
        self.loss()
        limits = self.limits()
        beside = self.validation()
        self.finish(limits)
        self.hidden(limits)
        self.rates(outer=beside)

    def loss(self) -> None:
        curve, line = self.curves.loss, self.style.line
        alone = curve.window == 1
        dots = "o" if np.isfinite(curve.raw).sum() <= 40 else None
        self.axes.plot(
            *thinned(curve.steps, curve.raw, self.style.width_px), color=self.colours[0], alpha=1.0 if alone else 0.3,
            linewidth=(1.4 if alone else 0.8) * line, marker=dots, markersize=3.5 * line, label=self.words.loss,
        )  # fmt: skip
        if not alone:
            label = self.words.mean.format(n=self.words.steps(curve.window))
            points = thinned(curve.steps, curve.smooth, self.style.width_px)
            self.axes.plot(*points, color=self.colours[0], linewidth=2.0 * line, label=label)

    def validation(self) -> bool:
        """Draw held-out losses; whether they have an axis of their own."""
        if not self.curves.validation:
            return False
        apart = not self.curves.one_scale
        axes = self.beside(f"{self.words.held_out} ({PLAIN_LOSS})", self.colours[1]) if apart else self.axes
        steps, values = zip(*self.curves.validation, strict=True)
        axes.plot(
            steps, values, color=self.colours[1], linewidth=1.6 * self.style.line, marker="o",
            markersize=4.5 * self.style.line, markeredgecolor=self.paper.page, label=self.words.held_out,
        )  # fmt: skip
        if apart:
            axes.set_ylim(*_spread(values))
        return apart

    def rates(self, *, outer: bool) -> None:
        """Draw learning rates. outer: there is another axis on the right already."""
        if not (rates := self.curves.rates):
            return
        beside = self.beside(self.words.rate, self.paper.text)
        if outer:
            beside.spines["right"].set_position(("axes", 1.14))
        points = thinned(np.arange(1, len(rates) + 1), np.asarray(rates, dtype=np.float64), self.style.width_px)
        beside.plot(*points, color=self.colours[2], linewidth=1.1 * self.style.line, linestyle=(0, (4, 2)),
                    label=self.words.rate)  # fmt: skip
        beside.yaxis.set_major_formatter(
            FuncFormatter(lambda value, _: _rate_text(value).replace(".", self.words.decimal))
        )
        largest = max((rate for rate in rates if math.isfinite(rate)), default=0.0)
        beside.set_ylim(0, largest * 1.25 if largest > 0 else 1.0)

    def beside(self, label: str, colour: str) -> Axes:
        """A further axis on the right."""
        axes = self.axes.twinx()
        axes.set_ylabel(label, fontsize=self.style.text_pt, labelpad=8 * self.style.line, color=colour)
        axes.yaxis.set_major_formatter(_Numbers(self.words.decimal))
        axes.tick_params(labelsize=self.style.text_pt - 1, length=3)
        axes.spines["top"].set_visible(False)
        return axes

    def limits(self) -> tuple[float, float]:
        """Ends of the loss axis: held-out losses where they stand on it, and all but the outermost percent."""
        shown = [value for _, value in self.curves.validation if self.curves.one_scale]
        for values in (self.curves.loss.raw, self.curves.loss.smooth):
            finite = values[np.isfinite(values)]
            shown += [*(finite if len(finite) < 50 else np.percentile(finite, (1, 99)))]
        return _spread(shown)

    def finish(self, limits: tuple[float, float]) -> None:
        axes, style, curve = self.axes, self.style, self.curves.loss
        axes.set_ylim(*limits)
        held_out = [step for step, _ in self.curves.validation]
        first, last = min(1, *held_out, 1), max(len(curve.steps), *held_out, 1)
        pad = 0.015 * (last - first) or 0.5
        axes.set_xlim(first - pad, last + pad)
        if not np.isfinite(curve.raw).any():
            middle = {"transform": axes.transAxes, "ha": "center"}
            axes.text(0.5, 0.5, self.words.nothing, fontsize=style.text_pt, **middle)
        kind = f" ({self.curves.kind})" if self.curves.kind else ""
        axes.set_xlabel(self.words.step, fontsize=style.text_pt, labelpad=6 * style.line)
        axes.set_ylabel(f"{self.words.loss}{kind}", fontsize=style.text_pt, labelpad=8 * style.line)
        if style.title:
            size = style.text_pt * 1.3
            axes.set_title(style.title, fontsize=size, fontweight="bold", pad=14 * style.line, wrap=True)
        axes.yaxis.set_major_formatter(_Numbers(self.words.decimal))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=9, integer=True, min_n_ticks=1))
        axes.tick_params(labelsize=style.text_pt - 1, length=3)
        axes.grid(axis="y", color=self.paper.rule, alpha=0.25, linewidth=0.7 * style.line)
        axes.spines[["top", "right"]].set_visible(False)

    def hidden(self, limits: tuple[float, float]) -> None:
        """Say where values are that the lines cannot show: above the axis, or not numbers at all."""
        curve = self.curves.loss
        above = curve.steps[np.nan_to_num(curve.raw, nan=-np.inf) > limits[1]]
        broken = curve.steps[~np.isfinite(curve.raw)]
        marks = (
            (above, limits[1], "^", self.colours[0], self.words.above),
            (broken, limits[0], "x", _BROKEN, self.words.broken),
        )
        for steps, height, marker, colour, label in marks:
            if len(steps):
                self.axes.plot(
                    steps, np.full(len(steps), height), marker, color=colour, markersize=5 * self.style.line,
                    clip_on=False, label=label.format(n=self.words.steps(len(steps))), zorder=5,
                )  # fmt: skip


def _spread(values: Sequence[float]) -> tuple[float, float]:
    """Ends of an axis around these values, with some room."""
    if not values:
        return 0.0, 1.0
    low, high = float(min(values)), float(max(values))
    margin = (high - low) * 0.08 or abs(high) * 0.5 or 1.0
    # a loss is never negative: keep the axis from promising otherwise
    return (max(0.0, low - margin) if low >= 0 else low - margin), high + margin


def _rate_text(rate: float) -> str:
    """2.5e-5 and not 2.50e-05."""
    if rate == 0 or 1e-2 <= abs(rate) < 1e4:
        return f"{rate:.4g}"
    mantissa, exponent = f"{rate:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def _legend(figure: Figure, style: ChartStyle) -> None:
    parts = [part.get_legend_handles_labels() for part in figure.axes]
    handles = [handle for found, _ in parts for handle in found]
    labels = [label for _, found in parts for label in found]
    if len(labels) > 1:
        figure.legend(
            handles, labels, loc="outside lower center", ncols=min(3, len(labels)), frameon=False,
            fontsize=style.text_pt - 1, handlelength=2.2, columnspacing=2.0,
        )  # fmt: skip
