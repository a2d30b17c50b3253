"""Held-out losses by bands of the timestep: low noise decides detail, high noise decides composition."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# middles of eight equal bands of the 1000 timesteps
TIMESTEPS = tuple(62 + 125 * band for band in range(8))


@dataclass(frozen=True)
class Validation:
    """The losses at one step, one for each of ``TIMESTEPS``; step 0 is the base without adapters.

    held_out: mean over the held-out images. training: over as many images that are trained on, at the same noise.
    """

    step: int
    held_out: tuple[float, ...]
    training: tuple[float, ...]

    @property
    def loss(self) -> float:
        """The held-out loss over all bands."""
        return sum(self.held_out) / len(self.held_out)

    @property
    def training_loss(self) -> float:
        return sum(self.training) / len(self.training)

    def as_plain(self) -> list[object]:
        """For JSON; ``Validation(*plain)`` gives it back."""
        return [self.step, list(self.held_out), list(self.training)]


def validation_of(plain: Sequence[object]) -> Validation:
    """What ``Validation.as_plain`` gave."""
    step, held_out, training = plain
    return Validation(int(step), tuple(held_out), tuple(training))  # type: ignore[call-overload,arg-type]


def best_of(validations: Sequence[Validation]) -> Validation | None:
    """The trained checkpoint of the lowest finite held-out loss, the earliest of equals; None before there is one."""
    trained = [validation for validation in validations if validation.step and math.isfinite(validation.loss)]
    return min(trained, key=lambda validation: validation.loss) if trained else None


def overfitting_lines(validations: Sequence[Validation]) -> list[str]:
    """A table: each checkpoint's losses over the base's, held-out images against training images, by timestep.

    Where training images go on gaining while held-out ones lose, the LoRA learns its images by heart.
    """
    base, *trained = sorted(validations, key=lambda validation: validation.step)
    if base.step or not trained:
        return []
    heads = [*(f"t={timestep}" for timestep in TIMESTEPS), "all"]
    lines = [
        "Loss over the base's, held-out images / training images, by timestep (below 1 is better than the base):",
        "step".rjust(8) + "".join(head.rjust(12) for head in heads),
    ]
    for one in trained:
        pairs = zip((*one.held_out, one.loss), (*base.held_out, base.loss), strict=True)
        trained_on = zip((*one.training, one.training_loss), (*base.training, base.training_loss), strict=True)
        cells = [f"{a / b:.2f}/{c / d:.2f}" for (a, b), (c, d) in zip(pairs, trained_on, strict=True)]
        lines.append(f"{one.step:8d}" + "".join(cell.rjust(12) for cell in cells))
    if (best := best_of(trained)) is None:
        return lines
    last = trained[-1]
    lines.append(f"Best held-out loss: {best.loss:.5f} at step {best.step} (base {base.loss:.5f}).")
    if last.loss > best.loss and last.training_loss < best.training_loss:
        lines.append(
            f"Since step {best.step} the held-out images have lost while the training images gained: the LoRA is "
            "overfitting."
        )
    return lines
