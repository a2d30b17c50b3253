"""Sample images on the way: when they are due, with which LoRA, and that they never cost a training."""

from __future__ import annotations

import torch

from ..lora.file import lora_tensors
from ..training.loop import Trainer
from .job import Job
from .log import RunLog, read_records
from .outputs import Outputs


class Previews:
    """The sample images of one run; a job without a sampler has none."""

    def __init__(self, job: Job, outputs: Outputs, log: RunLog) -> None:
        self.job, self.outputs, self.log = job, outputs, log
        self._tried = -1

    def due(self, step: int) -> bool:
        """Whether images are to be drawn after this step; a wish for them is taken."""
        sampler = self.job.sampler
        wanted = self.job.control.take_sample()
        return sampler is not None and (wanted or bool(sampler.every and step % sampler.every == 0))

    def owed(self, step: int) -> bool:
        """Whether those of the step from which a run goes on were due and are not drawn: it may have ended before."""
        sampler = self.job.sampler
        if sampler is None or not sampler.every or not step or step % sampler.every or step == self._tried:
            return False
        return not any(record["event"] == "sample" and record["step"] == step for record in read_records(self.log.path))

    def need_room(self) -> bool:
        """Whether the networks that are trained must go first."""
        return self.job.sampler is not None and self.job.sampler.needs_room()

    def lora(self, trainer: Trainer) -> dict[str, torch.Tensor]:
        """The tensors of the LoRA file that would be saved now."""
        with trainer.evaluating():
            return lora_tensors(trainer.adapters, trainer.settings.save_precision)

    def draw(self, lora: dict[str, torch.Tensor], step: int) -> None:
        """Draw and log; a picture that cannot be drawn is no reason to lose a training."""
        if self.job.sampler is None:
            return
        self._tried = step
        try:
            files = self.job.sampler.draw(lora, self.outputs, step)
        except Exception as error:
            self.job.say(f"The samples of step {step} could not be drawn ({str(error).rstrip('.')}); training goes on.")
            return
        self.log.write("sample", step, files=list(files))
