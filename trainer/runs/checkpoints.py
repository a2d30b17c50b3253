"""What a run writes while it trains: LoRA files with their metadata, and the state from which it can go on."""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path

from ..dataset.samples import Dataset
from ..errors import LoraFileError, NameTaken, NonFiniteLoss
from ..files import reason
from ..lora.file import lora_tensors, save_lora
from ..lora.metadata import RunFacts, lora_metadata
from ..training.bands import best_of
from ..training.loop import Trainer
from ..training.state import load_state, save_state
from ..undisturbed import undisturbed
from .log import RunLog
from .outputs import VALIDATION_KEY, Outputs, mark_of, run_of

# hosts refuse headers over 1 MiB: a long run's losses are thinned, never the metadata other tools read
_MOST_LOSSES = 20_000


class Checkpoints:
    """The files of one run. ``dataset``: the images that are trained on. ``say``: a line for the user.

    warn: the same for the run's report as well. keepsakes: as of the job. writes: False in all but one of several
    processes; they read the same state. base_hashes: metadata about the base's file.
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
        warn: Callable[[str], None],
        keepsakes: Callable[[], Mapping[str, str]] = dict,
        writes: bool = True,
        base_hashes: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        self.run, self.outputs, self.base_name, self.dataset = run, outputs, base_name, dataset
        self.log, self.say, self.warn, self.writes, self.base_hashes = log, say, warn, writes, base_hashes
        self._keepsakes = lru_cache(maxsize=1)(keepsakes)
        self.started = time.time()
        self._saved = time.monotonic()
        # of the state on disk
        self._step = 0
        # what files are called beside the run's name, once others have taken that
        self._aside, self._moved = "", 0
        # why that is not the latest, in a sentence; empty where the last one was saved
        self.unsaved = ""

    def load(self, trainer: Trainer) -> bool:
        """Put the saved state into a fresh trainer; False where there is none."""
        found = load_state(self.outputs.state, trainer, self.run)
        self._step = trainer.progress.step
        return found

    def forget_state(self) -> None:
        """Delete the state of a run that is finished; one that others hold open goes when it is asked for again."""
        if self.writes:
            with contextlib.suppress(OSError):
                self.outputs.state.unlink(missing_ok=True)

    @property
    def whence(self) -> str:
        """What the run would do if it were queued again: 'go on from step 4' or 'begin anew'."""
        return f"go on from step {self._step}" if self._step else "begin anew"

    def save_state(self, trainer: Trainer) -> None:
        """Write the state of the trainer's step.

        Raises:
            LoraFileError: it could not be written; an earlier one is as it was.
        """
        try:
            if self.writes:
                save_state(self.outputs.state, trainer, self.run)
            self._step = trainer.progress.step
        finally:
            # also of one that failed: the next is due after as long
            self._saved = time.monotonic()

    def keep_state(self, trainer: Trainer) -> bool:
        """Whether the state of the trainer's step is on disk, or could be put there; else ``unsaved`` is told."""
        return self._step == trainer.progress.step or self._try_state(trainer)

    def _try_state(self, trainer: Trainer, *, quiet: bool = False) -> bool:
        try:
            self.save_state(trainer)
        except LoraFileError as error:
            self.unsaved = (
                f"The state as of step {trainer.progress.step} could not be saved to '{self.outputs.folder}' "
                f"({reason(error)}); make room there: as it is, the run would {self.whence} if it were queued again."
            )
            if not quiet:
                self.warn(self.unsaved)
            return False
        self.unsaved = ""
        return True

    def loras_after(self, trainer: Trainer, *, wanted: bool) -> None:
        """Write the LoRA files that are due at the trainer's step; ``wanted``: the user asked for one now."""
        due = self._step_files(trainer)
        self._save_due(trainer, self._epoch_files(trainer), due)
        if wanted and not due:
            self._save_wanted(trainer, self.outputs.of_step(trainer.progress.step))

    def _save_wanted(self, trainer: Trainer, path: Path) -> None:
        # a file that only the user wants is no reason to lose a training
        try:
            self._save_due(trainer, [], [path])
        except LoraFileError as error:
            self.warn(f"{path.name} could not be saved as asked ({reason(error)}); training goes on.")

    def catch_up(self, trainer: Trainer) -> None:
        """Write what was due at the step from which a run goes on and is missing: it may have ended in between."""
        epochs, steps = self._epoch_files(trainer), self._step_files(trainer)
        self._save_due(trainer, *([path for path in paths if not path.is_file()] for paths in (epochs, steps)))
        if mark_of(self.outputs.best) != self._mark(trainer, self.outputs.best):
            self.save_if_best(trainer)

    def _save_due(self, trainer: Trainer, epochs: Iterable[Path], steps: Iterable[Path]) -> None:
        for path in epochs:
            self.save_lora(trainer, path)
        for path in steps:
            path = self.save_lora(trainer, path)
            self.say(f"Saved {path.name} as of step {trainer.progress.step} of {trainer.settings.steps}.")

    def save_if_best(self, trainer: Trainer) -> None:
        """Write the file of the lowest held-out loss, if it is wanted and the trainer's step has that loss."""
        options, best = trainer.settings.validation, best_of(trainer.progress.validations)
        if options.every and options.keep_best and best is not None and best.step == trainer.progress.step:
            self.save_lora(trainer, self.outputs.best)

    def state_after(self, trainer: Trainer, *, wanted: bool) -> None:
        """Save the state if it is due, or ``wanted``; one that cannot be saved is told once and due again later."""
        saving, seconds = trainer.settings.saving, time.monotonic() - self._saved
        late = saving.state_seconds and seconds >= saving.state_seconds
        if wanted or late or (saving.state_steps and trainer.progress.step % saving.state_steps == 0):
            self._try_state(trainer, quiet=bool(self.unsaved) and not wanted)

    def _epoch_files(self, trainer: Trainer) -> list[Path]:
        """The file that is due at the trainer's step, or none."""
        every, step = trainer.settings.save_every_epochs, trainer.progress.step
        if not every or not 0 < step < trainer.settings.steps or not trainer.plan.ends_epoch(step - 1):
            return []
        epoch = trainer.plan.epoch_of(step - 1) + 1
        return [self.outputs.of_epoch(epoch)] if epoch % every == 0 else []

    def _step_files(self, trainer: Trainer) -> list[Path]:
        """The same."""
        every, step = trainer.settings.saving.lora_steps, trainer.progress.step
        due = every and step % every == 0 and 0 < step < trainer.settings.steps
        return [self.outputs.of_step(step)] if due else []

    @contextlib.contextmanager
    def nothing_lost(self, trainer: Trainer) -> Iterator[None]:
        """Keeps what was computed, whatever ends the run: a cancel, a full disk, a loss that is no number."""
        try:
            yield
        except NonFiniteLoss as error:
            self._keep_last_good(trainer, error)
            raise
        except BaseException:
            if trainer.whole:
                self._keep_state(trainer)
            else:
                # weights that are ahead of the number of steps must not take the good state's place
                self.say(f"Stopped amid the update of step {trainer.progress.step + 1}; queue again to {self.whence}.")
            raise

    def _keep_state(self, trainer: Trainer) -> None:
        # who presses Ctrl+C twice does not mean to lose what the first one saves
        with undisturbed():
            kept = bool(step := trainer.progress.step) and self._try_state(trainer)
        if kept:
            self.say(f"Stopped after step {step}; queue again to go on from there.")

    def _keep_last_good(self, trainer: Trainer, error: NonFiniteLoss) -> None:
        """Saves the LoRA as of the last good step and says in the error where it is."""
        if not (step := trainer.progress.step):
            return
        path = self.outputs.of_step(step)
        try:
            path = self.save_lora(trainer, path)
            fate = f"The LoRA as of step {step} is kept in '{path.name}'."
        except LoraFileError as reason:
            fate = f"The LoRA as of step {step} could not be kept: {reason}"
        error.args = (f"{error.args[0]} {fate}",)

    def save_lora(self, trainer: Trainer, path: Path) -> Path:
        """Write the adapters as they are now, and beside them their running mean where the settings want both.

        Returns where: another path than the given one if another run has taken that in the meantime.

        Raises:
            LoraFileError: the file could not be written, or a value does not fit its number format.
        """
        if not self.writes:
            return path
        mean = self.outputs.mean_of(path)
        beside = trainer.mean is not None and trainer.settings.ema.file == "beside"
        while True:
            self._make_way((mean, path) if beside else (path,))
            try:
                if beside:
                    # first: the file itself says that the run is finished
                    with trainer.averaged():
                        self._write(trainer, self.place_of(mean), self._mark(trainer, mean))
                with trainer.evaluating():
                    self._write(trainer, self.place_of(path), self._mark(trainer, path))
                return self.place_of(path)
            except NameTaken:
                # by a run that ended at the same moment; a mean beside its file would look like its own
                if beside and self._is_own(self.place_of(mean)):
                    with contextlib.suppress(OSError):
                        self.place_of(mean).unlink()

    def _make_way(self, paths: Iterable[Path]) -> None:
        """Give this run's files another name from here on as long as one of these has become another run's."""
        while name := next((path.name for path in map(self.place_of, paths) if self._is_others(path)), ""):
            self._moved += 1
            self._aside = f"_{self.run[:8]}" + (f"_{self._moved}" if self._moved > 1 else "")
            stem = self.outputs.lora.stem
            self.warn(
                f"{name} has become another run's since this one began, so the files of this one are called "
                f"{stem}{self._aside} from here on."
            )

    def _is_others(self, path: Path) -> bool:
        return os.path.lexists(path) and not self._is_own(path)

    def _is_own(self, path: Path) -> bool:
        return run_of(path) == self.run

    def place_of(self, path: Path) -> Path:
        """Where a file of this run lies, which has another name if another run has taken one in the meantime."""
        stem = self.outputs.lora.stem
        return path.with_name(f"{stem}{self._aside}{path.name.removeprefix(stem)}")

    def _write(self, trainer: Trainer, path: Path, mark: str) -> None:
        progress, plan, settings = trainer.progress, trainer.plan, trainer.settings
        facts = RunFacts(
            run=mark,
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
        tensors = lora_tensors(trainer.adapters, settings.save_precision)
        save_lora(path, tensors, metadata, self._keepsakes(), replaceable=self._is_own)
        self.log.write("saved", progress.step, file=path.name)

    def _mark(self, trainer: Trainer, path: Path) -> str:
        """The run that a file is of and, unless it is finished, its step."""
        return self.run if path == self.outputs.lora else f"{self.run}@{trainer.progress.step}"


def _thinned(losses: list[float]) -> list[float]:
    return losses[:: math.ceil(len(losses) / _MOST_LOSSES)] if len(losses) > _MOST_LOSSES else losses
