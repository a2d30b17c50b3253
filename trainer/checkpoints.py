"""What a run writes while it trains: LoRA files with their metadata, and the state from which it can go on."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path

from .errors import LoraFileError, NonFiniteLoss
from .loop import Step, Trainer
from .lora_file import lora_tensors, save_lora
from .metadata import RunFacts, lora_metadata
from .outputs import VALIDATION_KEY, Outputs
from .run_log import RunLog
from .samples import Dataset
from .state import load_state, save_state

# hosts refuse headers over 1 MiB: a long run's losses are thinned, never the metadata other tools read
_MOST_LOSSES = 20_000


class Checkpoints:
    """The files of one run. ``dataset``: the images that are trained on. ``say``: a line for the user.

    keepsakes: as of the job. writes: False in all but one of several processes; they read the same state.
    base_hashes: metadata about the base's file.
    """

    def __init__(
        self,
        run: str,
        outputs: Outputs,
        base_name: str,
        dataset: Dataset,
        log: RunLog,
        say: Callable[[str], None],
        *,
        keepsakes: Callable[[], Mapping[str, str]] = dict,
        writes: bool = True,
        base_hashes: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        self.run, self.outputs, self.base_name, self.dataset = run, outputs, base_name, dataset
        self.log, self.say, self.writes, self.base_hashes = log, say, writes, base_hashes
        self._keepsakes = lru_cache(maxsize=1)(keepsakes)
        self.started = time.time()
        self._saved = time.monotonic()

    def load(self, trainer: Trainer) -> bool:
        """Put the saved state into a fresh trainer; False where there is none."""
        return load_state(self.outputs.state, trainer, self.run)

    def forget_state(self) -> None:
        """Delete the state of a run that is finished."""
        if self.writes:
            self.outputs.state.unlink(missing_ok=True)

    def save_state(self, trainer: Trainer) -> None:
        if self.writes:
            save_state(self.outputs.state, trainer, self.run)
        self._saved = time.monotonic()

    def loras_after(self, trainer: Trainer, step: Step, *, wanted: bool) -> None:
        """Write the LoRA files that are due after a step; ``wanted``: the user asked for one now."""
        if self._epoch_file_due(trainer, step):
            self.save_lora(trainer, self.outputs.of_epoch(trainer.plan.epoch_of(step.step - 1) + 1))
        saving = trainer.settings.saving
        if wanted or (saving.lora_steps and step.step % saving.lora_steps == 0 and step.step < step.steps):
            path = self.outputs.of_step(step.step)
            self.save_lora(trainer, path)
            self.say(f"Saved {path.name} as of step {step.step} of {step.steps}.")

    def state_after(self, trainer: Trainer, *, wanted: bool) -> None:
        """Save the state if it is due, or ``wanted``."""
        saving, seconds = trainer.settings.saving, time.monotonic() - self._saved
        late = saving.state_seconds and seconds >= saving.state_seconds
        if wanted or late or (saving.state_steps and trainer.progress.step % saving.state_steps == 0):
            self.save_state(trainer)

    def _epoch_file_due(self, trainer: Trainer, step: Step) -> bool:
        every = trainer.settings.save_every_epochs
        if not every or step.step == step.steps or not trainer.plan.ends_epoch(step.step - 1):
            return False
        return (trainer.plan.epoch_of(step.step - 1) + 1) % every == 0

    @contextlib.contextmanager
    def nothing_lost(self, trainer: Trainer) -> Iterator[None]:
        """Keeps what was computed, whatever ends the run: a cancel, a full disk, a loss that is no number."""
        try:
            yield
        except NonFiniteLoss as error:
            self._keep_last_good(trainer, error)
            raise
        except BaseException:
            if step := trainer.progress.step:
                with contextlib.suppress(LoraFileError):
                    self.save_state(trainer)
                    self.say(f"Stopped after step {step}; queue again to go on from there.")
            raise

    def _keep_last_good(self, trainer: Trainer, error: NonFiniteLoss) -> None:
        """Saves the LoRA as of the last good step and says in the error where it is."""
        if not (step := trainer.progress.step):
            return
        path = self.outputs.of_step(step)
        try:
            self.save_lora(trainer, path)
            fate = f"The LoRA as of step {step} is kept in '{path.name}'."
        except LoraFileError as reason:
            fate = f"The LoRA as of step {step} could not be kept: {reason}"
        error.args = (f"{error.args[0]} {fate}",)

    def save_lora(self, trainer: Trainer, path: Path) -> None:
        """Write the adapters as they are now, and beside them their running mean where the settings want both.

        Raises:
            LoraFileError: the file could not be written, or a value does not fit its number format.
        """
        if not self.writes:
            return
        if trainer.mean is not None and trainer.settings.ema.file == "beside":
            # first: the file itself says that the run is finished
            with trainer.averaged():
                self._write(trainer, self.outputs.mean_of(path))
        with trainer.evaluating():
            self._write(trainer, path)

    def _write(self, trainer: Trainer, path: Path) -> None:
        progress, plan, settings = trainer.progress, trainer.plan, trainer.settings
        facts = RunFacts(
            run=self.run if path == self.outputs.lora else f"{self.run}@{progress.step}",
            name=path.stem,
            base_name=self.base_name,
            started=self.started,
            finished=time.time(),
            step=progress.step,
            epoch=math.ceil(progress.step / plan.steps_per_epoch),
            epochs=math.ceil(plan.epochs),
            steps_per_epoch=plan.steps_per_epoch,
            prediction=trainer.parts.prediction,
            base_hashes=self.base_hashes(),
        )
        metadata = lora_metadata(settings, self.dataset, tuple(trainer.examples), facts)
        metadata["mjesec_losses"] = ",".join(f"{loss:.5g}" for loss in _thinned(progress.losses))
        metadata[VALIDATION_KEY] = json.dumps([[v.step, round(v.loss, 7)] for v in progress.validations])
        save_lora(path, lora_tensors(trainer.adapters, settings.save_precision), metadata, self._keepsakes())
        self.log.write("saved", progress.step, file=path.name)


def _thinned(losses: list[float]) -> list[float]:
    return losses[:: math.ceil(len(losses) / _MOST_LOSSES)] if len(losses) > _MOST_LOSSES else losses
