"""The part of a run in which something is trained: prepare, train, obey the user, report."""

from __future__ import annotations

import gc
import time
from dataclasses import replace
from pathlib import Path

from . import tensorboard
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
from .tensorboard import EventFiles
from .validate import Validator

_SMOOTHING = 0.98


class _Leave(BaseException):  # noqa: N818 - no error: the way out of the loop
    """Ends the loop after a step that is finished; ``reason``: paused, stopped or enough (early stopping)."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


class Session:
    """One job on its way from images to a LoRA file, over as many pauses as the user likes."""

    def __init__(self, job: Job, run: str, outputs: Outputs) -> None:
        self.job, self.outputs, self.settings = job, outputs, job.settings
        self.training, self.held_out = _split(job.dataset, job.settings)
        self._events = _event_files(job, outputs)
        self.log = RunLog(outputs.log, job.on_record, *([] if self._events is None else [self._events.hear]))
        self.files = Checkpoints(run, outputs, job.base.name, self.training, self.log, job.watcher.say)
        self._examples: tuple[Example, ...] = ()
        self._held_out: tuple[Example, ...] = ()
        self._smoothed: float | None = None

    def train(self) -> Result:
        self.outputs.remove_scratch()
        self.log.write("preparing", 0, **self._facts())
        try:
            self._examples, self._held_out = self._prepare()
            return self._train()
        except BaseException as error:
            self.log.end("failed" if isinstance(error, Exception) else "stopped", str(error) or "Interrupted.")
            raise
        finally:
            self.log.close()
            if self._events is not None:
                self._events.close()

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
        validator = Validator(self._examples, self._held_out, self.files, self.log, self.job.watcher.stage)
        validator.base(trainer)
        while (reason := self._run(trainer, validator)) == "paused":
            # the state on disk is all that is kept: networks, optimizer and activations are lent back
            step = trainer.progress.step
            del trainer
            self._wait(step)
            trainer = self._trainer()
        if reason == "stopped":
            return self._stopped(trainer, validator)
        with self.files.nothing_lost(trainer):
            validator.after(trainer, last=True)
            self.files.save_lora(trainer, self.outputs.lora)
        self.outputs.state.unlink(missing_ok=True)
        return self._finished(trainer, validator, early=reason == "enough")

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

    def _run(self, trainer: Trainer, validator: Validator) -> str:
        """Train until the last step ('done'), until the user wants something else ('paused', 'stopped'), or until
        the held-out loss has not fallen for long ('enough')."""
        control = self.job.control

        def on_step(step: Step) -> None:
            self._log_step(step)
            wanted = control.take_save()
            self.files.loras_after(trainer, step, wanted=wanted)
            validator.after(trainer)
            # last, so that a run goes on after everything that this step had to do
            self.files.state_after(trainer, wanted=wanted)
            self.job.watcher.step(step)
            enough = validator.enough(trainer)
            # a run that has taken its last step has nothing left to pause or to stop
            if step.step < step.steps and (enough or control.stopping or control.paused):
                raise _Leave("enough" if enough else "stopped" if control.stopping else "paused")

        with self.files.nothing_lost(trainer):
            try:
                # a cancel may have come before this could be measured
                validator.after(trainer)
                if validator.enough(trainer):
                    return "enough"
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

    def _stopped(self, trainer: Trainer, validator: Validator) -> Result:
        """The LoRA as it is, in a file of its own: the run's name stays free for the run's end."""
        step = trainer.progress.step
        path = self.outputs.of_step(step)
        self.files.save_lora(trainer, path)
        told = f"Stopped at step {step} of {self.settings.steps} as asked; queue again to go on from there."
        self.job.say(told)
        result = self._report(trainer, validator, path, stopped=True)
        self.log.end("stopped", told, path.name)
        return result

    def _finished(self, trainer: Trainer, validator: Validator, *, early: bool) -> Result:
        if early:
            self.job.say(
                f"Ended at step {trainer.progress.step} of {self.settings.steps}: the held-out loss has not fallen for "
                f"{self.settings.validation.patience} measurements."
            )
        result = self._report(trainer, validator, self.outputs.lora, stopped=False)
        self.log.end("finished", self.job.lines[-1], result.path.name)
        return result

    def _report(self, trainer: Trainer, validator: Validator, path: Path, *, stopped: bool) -> Result:
        progress = trainer.progress
        measured = [validation.loss for validation in progress.validations]
        held_out = (measured[0], measured[-1]) if len(measured) > 1 and not stopped else None
        lines = result_lines(trainer, path, held_out, time.time() - self.files.started)
        for line in (*validator.lines(trainer), *self._log_lines(), *lines):
            self.job.say(line)
        return Result(
            path,
            tuple(progress.losses),
            "\n".join(self.job.lines),
            reused=False,
            held_out=held_out,
            stopped=stopped,
            validation=tuple((validation.step, validation.loss) for validation in progress.validations),
        )

    def _log_lines(self) -> list[str]:
        if self._events is not None:
            return [f"TensorBoard files: {self._events.folder}."]
        if self.settings.saving.tensorboard:
            return ["No TensorBoard files: the package tensorboard is not installed."]
        return []

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


def _event_files(job: Job, outputs: Outputs) -> EventFiles | None:
    if not (job.settings.saving.tensorboard and tensorboard.is_installed()):
        return None
    return EventFiles(job.folders.work / "tensorboard" / f"{outputs.lora.stem}-{outputs.folder.name[:8]}")


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
