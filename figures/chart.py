"""The loss of a training run as a chart fit for print."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image

from .style import Theme, palette_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

_COLOURS = {"light": ("#2f6db5", "#c8611a", "#6a6f76"), "dark": ("#7db4f0", "#f0a15c", "#a4a8af")}
_REFERENCE_WIDTH = 960  # px at which text is set at _TEXT_PT
_TEXT_PT = 10.5
_SCREEN_DPI = 100


@dataclass(frozen=True)
class _Curve:
    """Loss by step (1, 2, …) with its running mean over `window` steps; float64, NaN where not finite."""

    steps: NDArray[Any]
    raw: NDArray[Any]
    smooth: NDArray[Any]
    window: int


def loss_chart(
    loss: Sequence[float],
    *,
    learning_rate: Sequence[float] | None = None,
    validation: Sequence[tuple[int, float]] | None = None,
    title: str = "",
    smoothing: int | None = None,
    width_px: int = 960,
    height_px: int = 540,
    theme: Theme = "light",
) -> Image.Image:
    """Loss over steps: every value faint, its centred running mean in full, as an RGB image.

    loss: one value a step, the first is step 1; values that are not finite leave a gap and a mark.
    learning_rate: one value a step, on an axis of its own. validation: (step, loss) pairs.
    smoothing: steps in the running mean; None takes a fortieth of the run, 1 draws no mean. The loss axis
    spans what the mean and all but the outermost percent of the values need; values above it are marked.
    Raises ValueError for no loss at all, for smoothing below 1 and for a picture under 200 × 150 px.
    """
    if len(loss) == 0:
        raise ValueError("There is no loss to draw; train for at least one step first.")
    if smoothing is not None and smoothing < 1:
        raise ValueError(f"The smoothing is {smoothing} steps; it must be at least 1.")
    if width_px < 200 or height_px < 150:
        raise ValueError(f"A loss chart of {width_px} × {height_px} px is too small; use at least 200 × 150.")
    from matplotlib import rc_context

    curve = _curve(loss, smoothing)
    with rc_context(_settings(theme)):
        figure = _figure(width_px, height_px)
        axes = figure.add_subplot()
        _draw_loss(axes, curve, theme)
        limits = _limits(curve, validation or ())
        _draw_validation(axes, validation or (), theme)
        _finish(axes, curve, limits, title, theme)
        _draw_learning_rate(axes, learning_rate or (), theme)
        _legend(figure)
        return _rendered(figure)


def running_mean(values: Sequence[float], window: int) -> NDArray[Any]:
    """Mean of the finite values in a centred window of `window` steps, cut off at both ends; NaN for none."""
    import numpy as np

    numbers = np.asarray(values, dtype=np.float64)
    finite = np.isfinite(numbers)
    total = np.concatenate([[0.0], np.cumsum(np.where(finite, numbers, 0.0))])
    count = np.concatenate([[0], np.cumsum(finite)])
    middle = np.arange(len(numbers))
    first = np.maximum(middle - (window - 1) // 2, 0)
    past = np.minimum(middle + window // 2 + 1, len(numbers))
    inside = count[past] - count[first]
    return np.where(inside > 0, (total[past] - total[first]) / np.maximum(inside, 1), np.nan)


def _curve(loss: Sequence[float], smoothing: int | None) -> _Curve:
    import numpy as np

    raw = np.asarray(loss, dtype=np.float64).reshape(-1)
    raw = np.where(np.isfinite(raw), raw, np.nan)
    window = min(smoothing or max(1, len(raw) // 40), len(raw))
    return _Curve(np.arange(1, len(raw) + 1), raw, running_mean(raw, window), window)


def _settings(theme: Theme) -> dict[str, Any]:
    palette = palette_of(theme)
    text = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), palette.text)
    lines = dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), palette.rule)
    return {
        **text, **lines, "figure.facecolor": palette.page, "axes.facecolor": palette.page,
        "font.family": "DejaVu Sans", "axes.unicode_minus": False, "text.parse_math": False,
        "text.usetex": False, "agg.path.chunksize": 20_000,
    }  # fmt: skip


def _figure(width: int, height: int) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    scale = min(width / _REFERENCE_WIDTH, height / (_REFERENCE_WIDTH * 9 / 16))
    dpi = _SCREEN_DPI * max(0.75, scale)
    figure = Figure(figsize=(width / dpi, height / dpi), dpi=dpi, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
    FigureCanvasAgg(figure)
    return figure


def _draw_loss(axes: Axes, curve: _Curve, theme: Theme) -> None:
    import numpy as np

    colour = _COLOURS[theme][0]
    alone = curve.window == 1
    dots = "o" if np.isfinite(curve.raw).sum() <= 40 else None
    axes.plot(
        curve.steps, curve.raw, color=colour, alpha=1.0 if alone else 0.3, linewidth=1.4 if alone else 0.8,
        marker=dots, markersize=3.5, label="loss",
    )  # fmt: skip
    if not alone:
        label = f"running mean over {curve.window} steps"
        axes.plot(curve.steps, curve.smooth, color=colour, linewidth=2.0, label=label)


def _draw_validation(axes: Axes, validation: Sequence[tuple[int, float]], theme: Theme) -> None:
    finite = [(step, value) for step, value in validation if math.isfinite(value)]
    if finite:
        steps, values = zip(*finite, strict=True)
        axes.plot(
            steps, values, color=_COLOURS[theme][1], linewidth=1.6, marker="o", markersize=4.5,
            markeredgecolor=palette_of(theme).page, label="held-out loss",
        )  # fmt: skip


def _draw_learning_rate(axes: Axes, rates: Sequence[float], theme: Theme) -> None:
    if len(rates) == 0:
        return
    from matplotlib.ticker import FuncFormatter

    beside = axes.twinx()
    colour = _COLOURS[theme][2]
    beside.plot(range(1, len(rates) + 1), rates, color=colour, linewidth=1.1, linestyle=(0, (4, 2)),
                label="learning rate")  # fmt: skip
    beside.set_ylabel("learning rate", fontsize=_TEXT_PT, labelpad=8)
    beside.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _rate_text(value)))
    beside.tick_params(labelsize=_TEXT_PT - 1, length=3)
    beside.spines["top"].set_visible(False)
    largest = max((rate for rate in rates if math.isfinite(rate)), default=0.0)
    beside.set_ylim(0, largest * 1.25 if largest > 0 else 1.0)


def _rate_text(rate: float) -> str:
    """2.5e-5 and not 2.50e-05."""
    if rate == 0 or 1e-2 <= abs(rate) < 1e4:
        return f"{rate:.4g}"
    mantissa, exponent = f"{rate:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def _limits(curve: _Curve, validation: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """Lower and upper end of the loss axis: the validation, and all but the outermost percent of the rest."""
    import numpy as np

    shown = [value for _, value in validation if math.isfinite(value)]
    for values in (curve.raw, curve.smooth):
        finite = values[np.isfinite(values)]
        few = len(finite) < 50
        shown += [*(finite if few else np.percentile(finite, (1, 99)))]
    if not shown:
        return 0.0, 1.0
    low, high = float(min(shown)), float(max(shown))
    margin = (high - low) * 0.08 or abs(high) * 0.5 or 1.0
    # a loss is never negative: keep the axis from promising otherwise
    return (max(0.0, low - margin) if low >= 0 else low - margin), high + margin


def _finish(axes: Axes, curve: _Curve, limits: tuple[float, float], title: str, theme: Theme) -> None:
    import numpy as np
    from matplotlib.ticker import MaxNLocator

    axes.set_ylim(*limits)
    first, last = min(1, axes.dataLim.x0), max(len(curve.steps), axes.dataLim.x1)
    pad = 0.015 * (last - first) or 0.5
    axes.set_xlim(first - pad, last + pad)
    if not np.isfinite(curve.raw).any():
        axes.text(0.5, 0.5, "no step had a finite loss", transform=axes.transAxes, ha="center", fontsize=_TEXT_PT)
    axes.set_xlabel("step", fontsize=_TEXT_PT, labelpad=6)
    axes.set_ylabel("loss (MSE)", fontsize=_TEXT_PT, labelpad=8)
    if title:
        axes.set_title(title, fontsize=_TEXT_PT * 1.3, fontweight="bold", pad=14, wrap=True)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=9, integer=True, min_n_ticks=1))
    axes.tick_params(labelsize=_TEXT_PT - 1, length=3)
    axes.grid(axis="y", color=palette_of(theme).rule, alpha=0.25, linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    _mark_hidden(axes, curve, limits, theme)


def _mark_hidden(axes: Axes, curve: _Curve, limits: tuple[float, float], theme: Theme) -> None:
    """Say where values are that the lines cannot show: above the axis, or not numbers at all."""
    import numpy as np

    above = curve.steps[np.nan_to_num(curve.raw, nan=-np.inf) > limits[1]]
    broken = curve.steps[~np.isfinite(curve.raw)]
    marks = (
        (above, limits[1], "^", _COLOURS[theme][0], "above the axis"),
        (broken, limits[0], "x", "#d0382b", "not finite"),
    )
    for steps, height, marker, colour, label in marks:
        if len(steps):
            text = f"{label} ({len(steps)} step{'s' if len(steps) > 1 else ''})"
            axes.plot(
                steps, np.full(len(steps), height), marker, color=colour, markersize=5, clip_on=False,
                label=text, zorder=5,
            )  # fmt: skip


def _legend(figure: Figure) -> None:
    parts = [part.get_legend_handles_labels() for part in figure.axes]
    handles = [handle for found, _ in parts for handle in found]
    labels = [label for _, found in parts for label in found]
    if len(labels) > 1:
        figure.legend(
            handles, labels, loc="outside lower center", ncols=min(3, len(labels)), frameon=False,
            fontsize=_TEXT_PT - 1, handlelength=2.2, columnspacing=2.0,
        )  # fmt: skip


def _rendered(figure: Figure) -> Image.Image:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=figure.dpi)
    buffer.seek(0)
    return Image.open(buffer).convert("RGB")
