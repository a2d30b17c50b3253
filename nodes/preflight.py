"""What a sweep will take, told before it runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..figures import Axis, Cell, cells, plan_figure
from .progress import clock
from .shot import Shot

_MOST_LAID_OUT = 1000


@dataclass(frozen=True)
class Preflight:
    """Counts of a sweep; ``seconds`` is None where this model's speed is not known yet."""

    cells: int
    on_disk: int
    steps: int
    steps_to_do: int
    lora_loads: int
    checkpoint_loads: int
    seconds: float | None
    pixels: tuple[int, int] | None
    megapixels: float

    def report(self) -> str:
        missing = self.cells - self.on_disk
        lines = [
            f"{_count(self.cells, 'cell')}, {_count(self.steps, 'sampling step')}; {self.on_disk} of the cells "
            f"are on disk, {missing} to compute with {_count(self.steps_to_do, 'step')}.",
            f"To load: {_count(self.lora_loads, 'LoRA strength')}, {_count(self.checkpoint_loads, 'checkpoint')}.",
            self._time(),
            f"All cells: {self.megapixels:.1f} megapixels" + self._figure(),
        ]
        return "\n".join(lines)

    def _time(self) -> str:
        if self.cells == self.on_disk:
            return "Time: nothing to compute."
        if self.seconds is None:
            return "Time: not known before the first cell of this model is measured."
        return f"Time: about {clock(self.seconds)}, from cells of this model measured before."

    def _figure(self) -> str:
        return "." if self.pixels is None else f"; as one figure {self.pixels[0]} × {self.pixels[1]} px."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def preflight(
    axes: Sequence[Axis], shots: Sequence[tuple[Cell, Shot]], missing: Sequence[Shot], rate: float | None
) -> Preflight:
    """``missing`` are the shots to compute, in order; ``rate`` is seconds a unit of ``Shot.work``."""
    every = [shot for _, shot in shots]
    return Preflight(
        cells=len(every),
        on_disk=len(every) - len(missing),
        steps=sum(shot.steps for shot in every),
        steps_to_do=sum(shot.steps for shot in missing),
        lora_loads=_changes(
            (shot.checkpoint, shot.lora_file, shot.lora_weight_model, shot.lora_weight_clip)
            for shot in missing
            if shot.uses_lora
        ),
        checkpoint_loads=_changes(shot.checkpoint for shot in missing if shot.checkpoint),
        seconds=None if rate is None else rate * sum(shot.work for shot in missing),
        pixels=_figure_size(axes, shots),
        megapixels=math.fsum(shot.width * shot.height for shot in every) / 1e6,
    )


def _changes(states: Iterable[object]) -> int:
    """How often the state changes along the way, the first one included."""
    count, last = 0, object()
    for state in states:
        count += state != last
        last = state
    return count


def _figure_size(axes: Sequence[Axis], shots: Sequence[tuple[Cell, Shot]]) -> tuple[int, int] | None:
    if len(shots) > _MOST_LAID_OUT:
        return None
    sizes = {cell.index: (shot.width, shot.height) for cell, shot in shots}
    layout = plan_figure(axes, {cell.index: sizes[cell.index] for cell in cells(axes)})
    return layout.width, layout.height
