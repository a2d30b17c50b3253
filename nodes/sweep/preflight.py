"""What a sweep will take, told before it runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.model_management

from ...figures import Axis, Cell, cells, plan_figure
from ..images import MOST_WIRED_PIXELS
from ..progress import clock
from .shot import Shot

_MOST_LAID_OUT = 1000
_LARGE_FIGURE = 2**30  # bytes


@dataclass(frozen=True)
class Memory:
    """Bytes: the model's weights, what one call of the sampler needs beside them as the host reckons, what is free."""

    weights: int
    working: int
    at_once: int
    free: int

    def report(self) -> str:
        batch = f" for {self.at_once} cells at once" if self.at_once > 1 else ""
        short = " It may have to be moved in parts, which is slow." if self.weights + self.working > self.free else ""
        return (
            f"Memory: about {_bytes(self.weights)} for the model and {_bytes(self.working)} to sample{batch}; "
            f"{_bytes(self.free)} would be free for both.{short}"
        )


@dataclass(frozen=True)
class Preflight:
    """Counts of a sweep; ``seconds`` is None where this model's speed is not known yet.

    to_compute: different ones. unreadable: cells that fail because a file of theirs cannot be read.
    """

    cells: int
    on_disk: int
    to_compute: int
    steps: int
    steps_to_do: int
    lora_loads: int
    checkpoint_loads: int
    seconds: float | None
    pixels: tuple[int, int] | None
    megapixels: float
    unreadable: int = 0
    memory: Memory | None = None

    def report(self) -> str:
        repeated = self.cells - self.on_disk - self.unreadable - self.to_compute
        again = f", {repeated} the same as others" if repeated else ""
        lines = [
            f"{_count(self.cells, 'cell')}, {_count(self.steps, 'sampling step')}; {self.on_disk} of the cells "
            f"are on disk, {self.to_compute} to compute with {_count(self.steps_to_do, 'step')}{again}.",
            f"To load: {_count(self.lora_loads, 'LoRA strength')}, {_count(self.checkpoint_loads, 'checkpoint')}.",
            self._time(),
            *([self.memory.report()] if self.memory else []),
            f"All cells: {self.megapixels:.1f} megapixels" + self._figure(),
        ]
        if self.unreadable:
            lines.insert(1, f"{_count(self.unreadable, 'cell')} cannot be made, for a file cannot be read.")
        return "\n".join(lines)

    def brief(self) -> str:
        """What of it depends on the way of computing."""
        lines = [f"{self.on_disk} of the cells are on disk, {self.to_compute} to compute.", self._time()]
        return " ".join([*lines, *([self.memory.report()] if self.memory else [])])

    def _time(self) -> str:
        if not self.to_compute:
            return "Time: nothing to compute."
        if self.seconds is None:
            return "Time: not known before the first cell of this model is measured."
        return f"Time: about {clock(self.seconds)} without loading, from cells of this model measured before."

    def _figure(self) -> str:
        if self.pixels is None:
            return "."
        width, height = self.pixels
        # the page in bytes, and what of it goes on by wire in floats
        memory = width * height * 3 + min(width * height, MOST_WIRED_PIXELS) * 12
        needs = f", which takes {_bytes(memory)} to draw" if memory > _LARGE_FIGURE else ""
        return f"; as one figure in the default layout {width} × {height} px{needs}."


def _bytes(number: int) -> str:
    return f"{number / 2**30:.1f} GiB" if number >= 2**30 else f"{number / 2**20:.0f} MiB"


MOST_AT_ONCE = 16


def memory_of(model: Any, shot: Shot, *, fast: bool) -> Memory:
    """What sampling a cell takes of the device, by the host's own estimates, were the model alone on it."""
    free = comfy.model_management.get_free_memory(model.load_device) + model.loaded_size()
    one = int(model.memory_required([2, 4, shot.height // 8, shot.width // 8]) * 1.5)
    room = int((free - model.model_size()) // max(one, 1))
    at_once = max(1, min(MOST_AT_ONCE, room)) if fast else 1
    return Memory(model.model_size(), one * at_once, at_once, free)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def preflight(
    axes: Sequence[Axis], shots: Sequence[tuple[Cell, Shot]], missing: Sequence[Shot], rate: float | None, *,
    on_disk: int, unreadable: int = 0, memory: Memory | None = None,
) -> Preflight:  # fmt: skip
    """``missing`` are the shots to compute, in order, each once; ``rate`` is seconds a unit of ``Shot.work``."""
    every = [shot for _, shot in shots]
    return Preflight(
        cells=len(every),
        on_disk=on_disk,
        to_compute=len(missing),
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
        unreadable=unreadable,
        memory=memory,
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
