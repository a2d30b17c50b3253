"""What a run writes about itself while it trains: its log and, where the package is there, TensorBoard files."""

from __future__ import annotations

import time

from ..training.loop import Step, Trainer
from . import tensorboard
from .job import Job
from .log import RunLog, read_ends
from .outputs import Outputs
from .tensorboard import EventFiles

_SMOOTHING = 0.98


class Journal:
    """The log of one run and everybody who listens to it. ``log`` takes further records."""

    def __init__(self, job: Job, outputs: Outputs) -> None:
        self.job, self.outputs = job, outputs
        self.started = time.time()
        self.log = RunLog(outputs.log, job.on_record)
        self._events: EventFiles | None = None
        self._smoothed: float | None = None
        if job.processes.main and job.settings.saving.tensorboard and tensorboard.is_installed():
            name = f"{outputs.lora.stem}-{outputs.mark}"
            self._events = EventFiles(job.folders.work / "tensorboard" / name, job.say)
            self.log.listeners.append(self._events.hear)

    @property
    def before(self) -> int:
        """The last step that was logged of a run which will go on; 0 of one that begins."""
        records = read_ends(self.outputs.log) if self.outputs.state.exists() else []
        return max((record["step"] for record in records), default=0)

    def prepare(self) -> None:
        """The run is known, its images are not encoded yet."""
        self.log.write("preparing", self.before, state="preparing", **self._facts())

    def begin(self, trainer: Trainer) -> None:
        """The run trains from its trainer's step on."""
        for loss in trainer.progress.losses:
            self._smooth(loss)
        step = trainer.progress.step
        logged = self.log.open(step) if self.job.processes.main else step
        self.log.write("begin", step, **self._facts(), steps_per_epoch=trainer.plan.steps_per_epoch)
        if logged < step:
            # the process ended when the step was taken and not told yet; of its rates and gradient nothing is known
            loss = trainer.progress.losses[-1]
            told = {"loss": loss, "smoothed_loss": self._smoothed, "lr": {}, "gradient_norm": None}
            self.log.write("step", step, **told)

    def step(self, step: Step) -> None:
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

    def lines(self) -> list[str]:
        """What the report says about TensorBoard."""
        if self._events is not None:
            return [] if self._events.failed else [f"TensorBoard files: {self._events.folder}."]
        if self.job.processes.main and self.job.settings.saving.tensorboard:
            return ["No TensorBoard files: the package tensorboard is not installed."]
        return []

    def close(self) -> None:
        self.log.close()
        if self._events is not None:
            self._events.close()

    def _facts(self) -> dict[str, object]:
        return {
            **self.job.origin,
            "id": self.outputs.folder.name,
            "name": self.outputs.lora.stem,
            "steps": self.job.settings.steps,
            "time": self.started,
        }

    def _smooth(self, loss: float) -> float:
        before = self._smoothed
        self._smoothed = loss if before is None else _SMOOTHING * before + (1 - _SMOOTHING) * loss
        return self._smoothed
