"""The part of a run in which something is trained: prepare, train, obey the user, report."""

from __future__ import annotations

import contextlib
import gc
import time
from dataclasses import replace

from .adapter import add_adapters
from .checkpoints import Checkpoints
from .data import Example, Plan, prepare
from .errors import DatasetError
from .job import Job, Result
from .latents import LatentsCache
from .loop import Step, Trainer
from .outputs import Outputs
from .run_log import RunLog
from .samples import Dataset
from .sdxl import Parts
from .settings import TrainSettings
from .summary import plan_lines, result_lines
from .validate import held_out_loss

_SMOOTHING = 0.98


class _Leave(BaseException):  # noqa: N818 - no error: the way out of the loop
    """Ends the loop after a step that is finished and kept; ``reason``: paused or stopped."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


class Session:
    """One job on its way from images to a LoRA file, over as many pauses as the user likes."""

    def __init__(self, job: Job, run: str, outputs: Outputs) -> None:
        self.job, self.outputs, self.settings = job, outputs, job.settings
        self.training, self.held_out = _split(job.dataset, job.settings)
        self.log = RunLog(outputs.log, job.on_record)
        self.files = Checkpoints(run, outputs, job.base.name, self.training, self.log, job.watcher.say)
        self._examples: tuple[Example, ...] = ()
        self._validation: tuple[Example, ...] = ()
        self._smoothed: float | None = None

    def train(self) -> Result:
        self.outputs.remove_scratch()
        self.log.write("preparing", 0, **self._facts())
        try:
            self._examples, self._validation = self._prepare()
            return self._train()
        except BaseException as error:
            self.log.end("failed" if isinstance(error, Exception) else "stopped", str(error) or "Interrupted.")
            raise
        finally:
            self.log.close()

    def _prepare(self) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
        job = self.job
        cache = LatentsCache(job.folders.work / "latents", job.base.vae_fingerprint, job.encode)
        both = replace(self.training, samples=self.training.samples + self.held_out.samples)
        examples = prepare(
            both, self.settings, cache, job.tokenize, lambda done, of: job.watcher.stage("encoding images", done, of)
        )
        count = self.training.num_images
        plan = Plan(examples[:count], self.settings)
        for line in plan_lines(self.settings, self.training, job.tokenize, plan):
            job.say(line)
        return examples[:count], examples[count:]

    def _train(self) -> Result:
        trainer = self._trainer()
        self._begin(trainer)
        base_loss = self._validate(trainer, base=True)
        while (reason := self._run(trainer)) == "paused":
            # the state on disk is all that is kept: networks, optimizer and activations are lent back
            step = trainer.progress.step
            del trainer
            self._wait(step)
            trainer = self._trainer()
        if reason == "stopped":
            return self._stopped_early(trainer)
        with self.files.nothing_lost(trainer):
            tuned_loss = self._validate(trainer, base=False)
            self.files.save_lora(trainer, self.outputs.lora)
        self.outputs.state.unlink(missing_ok=True)
        return self._finished(trainer, None if base_loss is None else (base_loss, tuned_loss))

    def _trainer(self) -> Trainer:
        """Networks, adapters and optimizer as of the saved state, or as of the beginning."""
        parts = self.job.parts()
        adapters = add_adapters(parts, self.settings)
        _set_modes(parts, self.settings)
        trainer = Trainer(parts, adapters, self._examples, self.settings, self.job.device)
        self.files.load(trainer)
        return trainer

    def _begin(self, trainer: Trainer) -> None:
        step = trainer.progress.step
        if step:
            self.job.say(f"Going on from step {step} of {self.settings.steps}.")
        for loss in trainer.progress.losses:
            self._smooth(loss)
        self.log.open(step)
        self.log.write("begin", step, **self._facts(), steps_per_epoch=trainer.plan.steps_per_epoch)

    def _run(self, trainer: Trainer) -> str:
        """Train until the last step ('done') or until the user wants something else ('paused', 'stopped')."""
        control = self.job.control

        def on_step(step: Step) -> None:
            self._log_step(step)
            self.files.after(trainer, step, wanted=control.take_save())
            self.job.watcher.step(step)
            # a run that has taken its last step has nothing left to pause or to stop
            if step.step < step.steps and (control.stopping or control.paused):
                raise _Leave("stopped" if control.stopping else "paused")

        with self.files.nothing_lost(trainer):
            try:
                if not control.stopping:
                    trainer.run(on_step)
            except _Leave as leave:
                self.files.save_state(trainer)
                return leave.reason
        return "stopped" if control.stopping and trainer.progress.step < self.settings.steps else "done"

    def _wait(self, step: int) -> None:
        gc.collect()
        self.log.write("paused", step)
        self.job.watcher.say(f"Paused after step {step}; the memory is given back.")
        try:
            self.job.control.wait(lambda: self.job.watcher.stage("paused", step, self.settings.steps))
        except BaseException:
            self.job.watcher.say(f"Stopped after step {step}; queue again to go on from there.")
            raise
        self.log.write("resumed", step)
        self.job.watcher.say(f"Going on from step {step}.")

    def _stopped_early(self, trainer: Trainer) -> Result:
        """The LoRA as it is, in a file of its own: the run's name stays free for the run's end."""
        step = trainer.progress.step
        path = self.outputs.of_step(step)
        self.files.save_lora(trainer, path)
        told = f"Stopped at step {step} of {self.settings.steps} as asked; queue again to go on from there."
        lines = result_lines(trainer, path, None, time.time() - self.files.started)
        for line in (told, *lines):
            self.job.say(line)
        self.log.end("stopped", told, path.name)
        losses = tuple(trainer.progress.losses)
        return Result(path, losses, "\n".join(self.job.lines), reused=False, stopped=True)

    def _finished(self, trainer: Trainer, held_out: tuple[float, float] | None) -> Result:
        path = self.outputs.lora
        lines = result_lines(trainer, path, held_out, time.time() - self.files.started)
        for line in lines:
            self.job.say(line)
        self.log.end("finished", lines[-1], path.name)
        return Result(path, tuple(trainer.progress.losses), "\n".join(self.job.lines), False, held_out)

    def _validate(self, trainer: Trainer, *, base: bool) -> float | None:
        if not self._validation:
            return None
        stage = "held-out loss of the base" if base else "held-out loss with the LoRA"
        adapters: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if base:
            adapters = trainer.adapters.disabled()
        with trainer.evaluating(), adapters:
            return held_out_loss(trainer, self._validation, lambda done, of: self.job.watcher.stage(stage, done, of))

    def _facts(self) -> dict[str, object]:
        return {
            **self.job.origin,
            "id": self.outputs.folder.name,
            "name": self.outputs.lora.stem,
            "steps": self.settings.steps,
            "time": self.files.started,
        }

    def _smooth(self, loss: float) -> float:
        before = self._smoothed
        self._smoothed = loss if before is None else _SMOOTHING * before + (1 - _SMOOTHING) * loss
        return self._smoothed

    def _log_step(self, step: Step) -> None:
        self.log.write(
            "step",
            step.step,
            loss=step.loss,
            smoothed_loss=self._smooth(step.loss),
            lr=step.rates,
            gradient_norm=step.gradient_norm,
            seconds_per_step=step.seconds_per_step,
            taken=step.taken,
        )


def _split(dataset: Dataset, settings: TrainSettings) -> tuple[Dataset, Dataset]:
    if settings.validation_images and settings.validation_images >= dataset.num_images:
        raise DatasetError(
            f"validation_images is {settings.validation_images}, but the dataset has {dataset.num_images} images: "
            "hold fewer out or add images."
        )
    return dataset.split(settings.validation_images, settings.seed)


def _set_modes(parts: Parts, settings: TrainSettings) -> None:
    """Training mode matters only to checkpointing: SDXL has no dropout, and its norms keep no statistics."""
    for module in parts.modules():
        module.train(settings.gradient_checkpointing)
    if settings.gradient_checkpointing:
        parts.unet.enable_gradient_checkpointing()
        if settings.trains_text:
            for encoder in (parts.te1, parts.te2):
                encoder.gradient_checkpointing_enable({"use_reentrant": False})
