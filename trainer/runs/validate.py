"""The loss on images that training never sees, at fixed noise and fixed timesteps: a number that can be compared."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

import torch

from ..dataset.samples import Sample
from ..sdxl.precision import widened
from ..training.bands import TIMESTEPS, Validation, best_of, overfitting_lines
from ..training.data import Example, collate
from ..training.loop import Trainer
from ..training.noise import step_generator
from .checkpoints import Checkpoints
from .log import RunLog
from .outputs import run_of

OnItem = Callable[[int, int], None]
Stage = Callable[[str, int, int], None]
_SEED = 20240711


def drawn(samples: Sequence[Sample], most: int) -> list[Sample]:
    """At most so many different images to measure, drawn from all folders alike; none of regularisation.

    The same ones whatever the samples' order; a larger ``most`` adds to those of a smaller one.
    """
    different = {sample.content_hash: sample for sample in reversed(samples) if not sample.regularisation}
    order = sorted(different)
    random.Random(_SEED).shuffle(order)  # noqa: S311 - not a secret
    return [different[content] for content in order[:most]]


@torch.no_grad()
def band_losses(trainer: Trainer, examples: Sequence[Example], on_item: OnItem) -> tuple[float, ...]:
    """Mean squared error over the examples at each of ``TIMESTEPS``; the same noise at every call.

    The latents are the posterior's mean, so nothing here is random. ``on_item(done, of)`` after each image.
    """
    totals, timesteps = torch.zeros(len(TIMESTEPS), dtype=torch.float64), torch.tensor(TIMESTEPS)
    for number, example in enumerate(examples):
        generator = step_generator(_SEED, number)
        # in pieces of as many as a step computes, which are known to fit; one generator draws the same for any size
        losses = []
        for piece in timesteps.split(trainer.processes.most_rows(trainer.settings.batch_size)):
            batch = collate([example] * len(piece), [example.latents.mean] * len(piece))
            losses.append(widened(trainer.loss_per_image(batch, generator, piece)))
        totals += torch.cat(losses)
        on_item(number + 1, len(examples))
    return tuple((totals / len(examples)).tolist())


class Validator:
    """Measures a run, keeps its best checkpoint and knows when to stop. The results are in the trainer's progress.

    training: examples that are trained on; as many of their images are measured as are held out.
    """

    def __init__(
        self, training: Sequence[Example], held_out: Sequence[Example], files: Checkpoints, log: RunLog, stage: Stage
    ) -> None:
        # of an image at several resolutions the first example is at the settings' own, as held-out ones are
        first = {example.sample.content_hash: example for example in reversed(training)}
        chosen = drawn([example.sample for example in training], len(held_out))
        self.training = tuple(first[sample.content_hash] for sample in chosen)
        self.held_out = tuple(held_out)
        self.files, self.log, self.stage = files, log, stage

    def base(self, trainer: Trainer) -> None:
        """Measure the base without adapters, once for a run."""
        if self.held_out and not trainer.progress.validations:
            with trainer.adapters.disabled():
                self._measure(trainer, 0)

    def after(self, trainer: Trainer, *, last: bool = False) -> None:
        """Measure the step that the trainer is at, if it is time to and was not done yet.

        Raises:
            LoraFileError: the best checkpoint could not be written.
        """
        options, step = trainer.settings.validation, trainer.progress.step
        done = any(validation.step == step for validation in trainer.progress.validations)
        due = last or (options.every and step and step % options.every == 0)
        if not self.held_out or done or not due:
            return
        self._measure(trainer, step)
        self.files.save_if_best(trainer)

    def enough(self, trainer: Trainer) -> bool:
        """Whether the held-out loss has not fallen for as long as the settings' patience."""
        patience, best = trainer.settings.validation.patience, best_of(trainer.progress.validations)
        if not patience or best is None:
            return False
        return sum(validation.step > best.step for validation in trainer.progress.validations) >= patience

    def _measure(self, trainer: Trainer, step: int) -> None:
        what = "base" if step == 0 else "LoRA"
        with trainer.evaluating():
            held_out = self._losses(trainer, self.held_out, f"held-out loss of the {what}")
            training = self._losses(trainer, self.training, f"the same on training images, {what}")
        measured = Validation(step, held_out, training)
        if not math.isfinite(measured.loss):
            self.files.say(f"The held-out loss at step {step} is no finite number, so that it counts for no best file.")
        trainer.progress.validations.append(measured)
        self.log.write(
            "validation",
            step,
            loss=measured.loss,
            training_loss=measured.training_loss,
            timesteps=TIMESTEPS,
            held_out=held_out,
            training=training,
        )

    def _losses(self, trainer: Trainer, examples: Sequence[Example], stage: str) -> tuple[float, ...]:
        return band_losses(trainer, examples, lambda done, of: self.stage(stage, done, of))

    def lines(self, trainer: Trainer) -> list[str]:
        """What the report says about the checkpoints: nothing where only the two ends were measured."""
        validations = trainer.progress.validations
        if not trainer.settings.validation.every or not validations:
            return []
        lines = overfitting_lines(validations)
        best = self.files.place_of(self.files.outputs.best)
        # one that was written before the output was renamed has its old name
        kept = trainer.settings.validation.keep_best and run_of(best) == self.files.run
        if kept and best_of(validations) is not None:
            lines.append(f"Kept as {best.name}.")
        return lines
