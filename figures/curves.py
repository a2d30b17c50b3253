"""The curves of a training run, as they are drawn: running means, and no more points than are seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

# points of a line for each pixel of width: more are not seen, and drawn slowly
_POINTS_PER_PIXEL = 2
PLAIN_LOSS = "MSE"


@dataclass(frozen=True)
class Curve:
    """Loss by step (1, 2, …) with its running mean over `window` steps; float64, NaN where not finite."""

    steps: NDArray[Any]
    raw: NDArray[Any]
    smooth: NDArray[Any]
    window: int


@dataclass(frozen=True)
class Curves:
    """All that a chart shows. validation: (step, loss) pairs, finite ones alone. rates: one a step, or none.

    kind: what the loss is, such as ``MSE`` or ``huber, min-SNR 5``; empty where nobody knows. Held-out losses are
    always MSE, and another loss cannot stand on the same axis.
    """

    loss: Curve
    validation: tuple[tuple[int, float], ...] = ()
    rates: tuple[float, ...] = ()
    kind: str = ""

    @property
    def one_scale(self) -> bool:
        return self.kind in ("", PLAIN_LOSS)


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


def thinned(steps: NDArray[Any], values: NDArray[Any], width_px: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """A line with fewer points that looks the same at that width: of each stretch the least and the greatest value.

    A line of more points is one that a renderer cuts into pieces, whose ends show where it is translucent.
    """
    import numpy as np

    most = width_px * _POINTS_PER_PIXEL
    if len(values) <= most:
        return steps, values
    stretch = -(-len(values) // (most // 2))
    padded = np.concatenate([values, np.full(-len(values) % stretch, np.nan)]).reshape(-1, stretch)
    # of a stretch without any number one is taken all the same: the gap stays
    least = np.where(np.isnan(padded), np.inf, padded).argmin(axis=1)
    greatest = np.where(np.isnan(padded), -np.inf, padded).argmax(axis=1)
    places = np.sort(np.stack([least, greatest], axis=1), axis=1) + np.arange(len(padded))[:, None] * stretch
    kept = np.unique(np.minimum(places.reshape(-1), len(values) - 1))
    return steps[kept], values[kept]


def curve_of(loss: Sequence[float], smoothing: int | None) -> Curve:
    """The curve of one loss a step; ``smoothing`` as `ChartStyle` has it."""
    import numpy as np

    raw = np.asarray(loss, dtype=np.float64).reshape(-1)
    raw = np.where(np.isfinite(raw), raw, np.nan)
    window = min(smoothing or max(1, len(raw) // 40), len(raw))
    return Curve(np.arange(1, len(raw) + 1), raw, running_mean(raw, window), window)
