"""The loss of a training run as a chart fit for print."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from .chart_style import ChartStyle
from .curves import Curves, curve_of
from .files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DATES = {"pdf": "CreationDate", "svg": "Date"}


class Chart:
    """A chart that is laid out, as an image and as files."""

    def __init__(self, figure: Figure, settings: dict[str, Any], title: str) -> None:
        self._figure, self._settings, self._title = figure, settings, title

    def image(self) -> Image.Image:
        """RGB, of the style's pixels."""
        buffer = io.BytesIO()
        self._save(buffer, "png")
        buffer.seek(0)
        return Image.open(buffer).convert("RGB")

    def write(self, path: Path) -> None:
        """A PDF or an SVG, as the name ends, with live text and without a date. Raises OSError, naming the file."""
        with replacing(path) as file:
            self._save(file, path.suffix[1:].lower())

    def _save(self, file: Any, form: str) -> None:
        from matplotlib import rc_context

        about = {_DATES[form]: None, "Title": self._title, "Creator": "Mjesec"} if form in _DATES else None
        with rc_context(self._settings):
            self._figure.savefig(file, format=form, dpi=self._figure.dpi, metadata=about)


def loss_chart(
    loss: Sequence[float],
    *,
    learning_rate: Sequence[float] = (),
    validation: Sequence[tuple[int, float]] = (),
    kind: str = "",
    style: ChartStyle | None = None,
) -> Chart:
    """Loss over steps: every value faint, its centred running mean in full.

    loss: one value a step, the first is step 1; values that are not finite leave a gap and a mark.
    learning_rate: one value a step, on an axis of its own. validation: (step, loss) pairs, on an axis of their own
    where ``kind`` says that the loss is no plain MSE (see `Curves`). The loss axis spans what the mean and all but the
    outermost percent of the values need; values above it are marked. Raises ValueError for no loss at all.
    """
    if len(loss) == 0:
        raise ValueError("There is no loss to draw; train for at least one step first.")
    from matplotlib import rc_context

    from .chart_drawing import draw, settings_of

    style = style or ChartStyle()
    finite = tuple((step, value) for step, value in validation if math.isfinite(value))
    curves = Curves(curve_of(loss, style.smoothing), finite, tuple(learning_rate), kind)
    settings = settings_of(style)
    with rc_context(settings):
        return Chart(draw(curves, style), settings, style.title)
