"""The part of a run in which something is trained: prepare, train, obey the user, report."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ..adapters.adapters import add_adapters
from ..dataset.samples import Dataset
from ..device import give_back
from ..errors import BrokenImages, Cancelled, DatasetError, ImageError, LoraFileError, TrainerError
from ..files import check_writable
from ..sdxl.base_hashes import BaseHashes
from ..sdxl.pages import use_large_pages
from ..sdxl.parts import Parts
from ..settings.training import TrainSettings
from ..shortage import is_out_of_memory, sentence_for_shortage
from ..training.data import Example, Plan, prepare
from ..training.graphs import NOT_RECORDED
from ..training.latents import LatentsCache
from ..training.loop import Step, Trainer
from ..training.memory import choose_profile, release_text_encoders, retreat, spare
from ..training.processes import Processes
from .checkpoints import Checkpoints
from .job import Job, Result
from .journal import Journal
from .outputs import Outputs
from .previews import Previews
from .summary import plan_lines, result_lines, unlike_asked
from .validate import Validator

# what is done, and what helps where it finds no memory
_BUILDING = (
    "to make the networks of the run",
    "train in bf16, train the U-Net alone, lower the rank, or close what else holds memory",
)
_MEASURING = (
    "to measure the held-out loss",
    "choose a lower resolution or batch_size, hold no images out, or close what else holds memory",
)


class _Leave(BaseException):  # no error: the way out of the loop
    """Ends the loop after a step that is finished; ``reason``: paused, stopped, enough (early stopping) or samples."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


class _Asked(Exception):  # no error: the way out of a measurement
    """Somebody wants the run to stop or to pause."""


class Session:
    """One job on its way from images to a LoRA file, over as many pauses as the user likes."""

    def __init__(self, job: Job, run: str, outputs: Outputs) -> None:
        self.job, self.outputs, self.settings = job, outputs, job.settings
        self.training, self.held_out = _split(job.dataset, job.settings)
        self.journal = Journal(job, outputs)
        self.log = self.journal.log
        self.previews = Previews(job, outputs, self.log)
        self.hashes = BaseHashes(job.base.file, job.folders.work / "hashes", self._on_hashing)
        self.files = Checkpoints(
            run,
            outputs,
            job.base.name,
            self.training,
            self.log,
            job.watcher.say,
            warn=job.say,
            keepsakes=job.keepsakes,
            writes=job.processes.main,
            base_hashes=self.hashes.get,
        )
        self._examples: tuple[Example, ...] = ()
        self._held_out: tuple[Example, ...] = ()
        self._spared: tuple[str, int | None] | None = None
        # whether a measurement may be left for a stop or a pause
        self._heeds = False

    def train(self) -> Result:
        if self.job.processes.main:
            for folder in (self.outputs.lora.parent, self.outputs.folder):
                check_writable(folder)
            self.outputs.remove_scratch()
            self.hashes.begin()
        self.journal.prepare()
        try:
            self._examples, self._held_out = self._prepare()
            return self._train()
        except BrokenImages as error:
            # mostly not the end: the run begins anew without them
            if len(error.paths) == self.job.dataset.num_images:
                self.log.end("failed", str(error))
            raise
        except BaseException as error:
            told = " ".join(filter(None, (str(error) or "Interrupted.", self.files.unsaved)))
            if isinstance(error, TrainerError) and self.files.unsaved:
                error.args = (told,)
            asked = isinstance(error, Cancelled) or not isinstance(error, Exception)
            self.log.end("stopped" if asked else "failed", told)
            raise
        finally:
            self.hashes.end()
            self.journal.close()

    def _on_hashing(self, done: int, total: int) -> None:
        self.job.watcher.stage("hash of the checkpoint", done, total)

    def _prepare(self) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
        job = self.job
        cache = LatentsCache(job.folders.work / "latents", job.base.vae_fingerprint, job.encode)
        began = time.monotonic()
        examples = self._encoded(self.training, self.settings, cache)
        # measured as they are: neither mirrored nor at other resolutions
        plain = replace(self.settings, images=replace(self.settings.images, flip=False, more_resolutions=()))
        held_out = self._encoded(self.held_out, plain, cache)
        job.say(cache.told(time.monotonic() - began))
        for line in plan_lines(self.settings, self.training, job.tokenize, Plan(examples, self.settings)):
            job.say(line)
        for line in unlike_asked(self.settings, examples, job.device):
            job.say(line)
        return examples, held_out

    def _encoded(self, dataset: Dataset, settings: TrainSettings, cache: LatentsCache) -> tuple[Example, ...]:
        job = self.job

        def on_item(done: int, of: int) -> None:
            job.watcher.stage("encoding images", done, of)
            self._obey_before_training(done, of)

        if job.processes.count == 1:
            return prepare(dataset, settings, cache, job.tokenize, on_item)
        # each process encodes its share, and then all find everything on disk, or encode the rest on disks of their own
        with contextlib.suppress(BrokenImages):
            prepare(job.processes.share_of(dataset), settings, cache, job.tokenize, on_item)
        job.processes.wait()
        examples, broken = (), frozenset[str]()
        try:
            examples = prepare(dataset, settings, cache, job.tokenize, on_item)
        except BrokenImages as error:
            broken = error.paths
        _check_all_read(job.processes, dataset, broken)
        return examples

    def _obey_before_training(self, done: int, of: int) -> None:
        """A pause or a stop while images are encoded: there may be thousands of them.

        Raises:
            Cancelled: the run is to stop and has taken no step, so that there is nothing to save.
        """
        control = self.job.control
        if control.paused:
            self.log.write("paused", self.journal.before)
            self.job.watcher.say(f"Paused after {done} of {of} images were encoded.")
            control.wait(lambda: self.job.watcher.stage("paused", done, of))
            self.journal.prepare()
        if control.stopping and not self.outputs.state.exists():
            raise Cancelled(
                "Stopped before the first step, so that there is no LoRA; queue again to begin: images that are "
                "encoded stay so."
            )

    def _train(self) -> Result:
        trainer = self._trainer()
        self._begin(trainer)
        validator = Validator(self._examples, self._held_out, self.files, self.log, self._measuring)
        with sentence_for_shortage(*_MEASURING):
            validator.base(trainer)
        while (reason := self._run(trainer, validator)) in ("paused", "samples"):
            # the state on disk is all that is kept: networks, optimizer and activations are lent back
            step, lora = trainer.progress.step, self.previews.lora(trainer) if reason == "samples" else {}
            pace = trainer.pace
            del trainer
            give_back(self.job.device)
            if reason == "samples":
                self.previews.draw(lora, step)
            # also a pause that was asked for before or while the samples were drawn
            if self.job.control.paused and step < self.settings.steps:
                self._wait(step)
            trainer = self._trainer(goes_on=True)
            trainer.pace = pace
        if reason == "stopped":
            return self._stopped(trainer, validator)
        with self.files.nothing_lost(trainer):
            with sentence_for_shortage(*_MEASURING):
                validator.after(trainer, last=True)
            path = self.files.save_lora(trainer, self.outputs.lora)
            self.files.forget_state()
        # whoever is first to end would take the others' connection away
        self.job.processes.wait()
        return self._finished(trainer, validator, path, early=reason == "enough")

    def _trainer(self, *, goes_on: bool = False) -> Trainer:
        """Networks, adapters and optimizer as of the saved state, or as of the beginning.

        goes_on: the memory was lent, and what was learnt is in the state alone.

        Raises:
            LoraFileError: the saved state is damaged, or went while the memory was lent or the networks were made.
        """
        with sentence_for_shortage(*_BUILDING):
            parts, state = self.job.parts(), self.outputs.state
            saved = self.job.processes.from_main(state.exists)
            adapters = add_adapters(parts, self.settings, self.job.device, self.job.watcher.stage, from_state=saved)
            self._use_large_pages(parts)
            trainer = Trainer(
                parts,
                adapters,
                self._examples,
                self.settings,
                self.job.device,
                self.job.tokenize,
                self.job.processes,
                self.job.say,
            )
            self._spare_memory(trainer)
            # the adapters of a state may have no initial weights of their own
            if not self.files.load(trainer) and (saved or goes_on):
                raise LoraFileError(f"The saved state '{state}' is gone; queue again to begin anew.")
        return trainer

    def _use_large_pages(self, parts: Parts) -> None:
        if self.job.device.type != "cpu":
            return
        used = parts.modules() if self.settings.trains_text else (parts.unet,)
        use_large_pages((weight for module in used for weight in module.parameters()), self.job.watcher.stage)

    def _spare_memory(self, trainer: Trainer) -> None:
        """Choose how memory is spared and say so, or spare it as this run had to before."""
        # on a CPU they are the host's own weights, and letting go of them would free nothing
        if self.job.device.type != "cpu":
            release_text_encoders(trainer, self._examples + self._held_out)
        if self._spared is None:
            if trainer.unrecorded:
                self.job.say(NOT_RECORDED)
            if told := choose_profile(trainer, self.job.free_bytes):
                self.job.say(told)
        else:
            level, trainer.piece = self._spared
            spare(trainer, level)
        self._spared = trainer.checkpointing, trainer.piece

    def _steps(self, trainer: Trainer, on_step: Callable[[Step], None]) -> None:
        """Train; a step that finds too little memory is tried again with less speed, and that is said."""
        while True:
            try:
                return trainer.run(on_step)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                told = retreat(trainer, error)
            # the frames of the failed step held its activations until here
            give_back(self.job.device)
            self._spared = trainer.checkpointing, trainer.piece
            self.job.say(told)

    def _begin(self, trainer: Trainer) -> None:
        step = trainer.progress.step
        if step:
            self.job.say(f"Going on from step {step} of {self.settings.steps}.")
        self.journal.begin(trainer)

    def _run(self, trainer: Trainer, validator: Validator) -> str:
        """Train until the last step ('done'), until the user wants something else ('paused', 'stopped'), or until
        the held-out loss has not fallen for long ('enough')."""
        control = self.job.control

        def on_step(step: Step) -> None:
            self.journal.step(step)
            wanted = control.take_save()
            self.files.loras_after(trainer, wanted=wanted)
            self._measure(trainer, validator)
            # last, so that a run goes on after everything that this step had to do
            self.files.state_after(trainer, wanted=wanted)
            self.job.watcher.step(step)
            enough = self._enough(trainer, validator)
            # before the run is left for anything else: what is due at this step is due at no other
            if self.previews.due(step.step):
                self._draw(trainer)
            # a run that has taken its last step has nothing left to pause or to stop
            if step.step < step.steps:
                self._leave_if_asked(trainer, enough=enough)

        with self.files.nothing_lost(trainer):
            try:
                # a cancel may have come before this could be written or measured
                self.files.catch_up(trainer)
                with sentence_for_shortage(*_MEASURING):
                    validator.after(trainer)
                if self._enough(trainer, validator):
                    return "enough"
                if self.previews.owed(trainer.progress.step):
                    self._draw(trainer)
                # a run that was told to stop before its first step still takes that one: there must be a LoRA
                if not (control.stopping and trainer.progress.step):
                    self._steps(trainer, on_step)
            except _Leave as leave:
                if leave.reason == "enough":
                    self.files.keep_state(trainer)
                return leave.reason
        return "stopped" if control.stopping and trainer.progress.step < self.settings.steps else "done"

    def _measure(self, trainer: Trainer, validator: Validator) -> None:
        """Held-out losses, where they are due; a stop or a pause does not wait for all of them, and what is left of
        them is measured when the run goes on."""
        self._heeds = trainer.progress.step < self.settings.steps
        try:
            with sentence_for_shortage(*_MEASURING), contextlib.suppress(_Asked):
                validator.after(trainer)
        finally:
            self._heeds = False

    def _measuring(self, name: str, done: int, of: int) -> None:
        self.job.watcher.stage(name, done, of)
        control = self.job.control
        if self._heeds and (control.stopping or control.paused):
            raise _Asked

    def _draw(self, trainer: Trainer) -> None:
        """The samples of the trainer's step; where they need its memory, the run is left for them."""
        step = trainer.progress.step
        if not self.previews.need_room():
            self.previews.draw(self.previews.lora(trainer), step)
        elif self._may_lend(trainer):
            raise _Leave("samples")
        else:
            self.job.say(f"The samples of step {step} are not drawn: they need the memory of the networks.")

    def _leave_if_asked(self, trainer: Trainer, *, enough: bool) -> None:
        control = self.job.control
        if enough or control.stopping:
            raise _Leave("enough" if enough else "stopped")
        if control.paused:
            if self._may_lend(trainer):
                raise _Leave("paused")
            # who resumed it or asked to stop it in the meantime has ended the pause
            with contextlib.suppress(ValueError):
                control.resume()
            self.job.say("The run does not pause without a saved state: training goes on.")

    def _may_lend(self, trainer: Trainer) -> bool:
        """Whether the memory may be lent: the state is on disk, which is all that is kept then. If not, why is told."""
        kept = self.files.keep_state(trainer)
        # one that leaves the loop alone would wait for the others for ever
        return self.job.processes.from_main(lambda: kept)

    def _enough(self, trainer: Trainer, validator: Validator) -> bool:
        # a run that has taken its last step does not end early
        if not self.settings.validation.patience or trainer.progress.step == self.settings.steps:
            return False
        # unlike devices round unlike, and all must leave the loop together
        return self.job.processes.from_main(lambda: validator.enough(trainer))

    def _wait(self, step: int) -> None:
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
        with self.files.nothing_lost(trainer):
            # first: the state is many times as large, and must not take its room
            path = self.files.save_lora(trainer, path)
            kept = self.files.keep_state(trainer)
        whence = "go on from there" if kept else self.files.whence
        told = f"Stopped at step {step} of {self.settings.steps} as asked; queue again to {whence}."
        self.job.say(told)
        result = self._report(trainer, validator, path, stopped=True)
        self.log.end("stopped", told, path.name)
        return result

    def _finished(self, trainer: Trainer, validator: Validator, path: Path, *, early: bool) -> Result:
        if early:
            self.job.say(
                f"Ended at step {trainer.progress.step} of {self.settings.steps}: the held-out loss has not fallen for "
                f"{self.settings.validation.patience} measurements."
            )
        result = self._report(trainer, validator, path, stopped=False)
        self.log.end("finished", self.job.lines[-1], result.path.name)
        return result

    def _report(self, trainer: Trainer, validator: Validator, path: Path, *, stopped: bool) -> Result:
        progress = trainer.progress
        measured = [validation.loss for validation in progress.validations]
        held_out = (measured[0], measured[-1]) if len(measured) > 1 and not stopped else None
        lines = result_lines(trainer, path, held_out)
        for line in (*validator.lines(trainer), *self.journal.lines(), *lines):
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


def _check_all_read(processes: Processes, dataset: Dataset, broken: frozenset[str]) -> None:
    """What one process cannot read is left out by all of them.

    Raises:
        BrokenImages: in every process, the images that any of them cannot read.
    """
    places = {place for place, sample in enumerate(dataset.samples) if sample.path in broken}
    if everywhere := set().union(*processes.from_all(places)):
        reason = "it cannot be read, here or on another machine"
        raise BrokenImages([ImageError(dataset.samples[place].path, reason) for place in sorted(everywhere)])


def _split(dataset: Dataset, settings: TrainSettings) -> tuple[Dataset, Dataset]:
    if settings.validation_images and settings.validation_images >= dataset.num_images:
        raise DatasetError(
            f"validation_images is {settings.validation_images}, but the dataset has {dataset.num_images} images: "
            "hold fewer out or add images."
        )
    return dataset.split(settings.validation_images, settings.seed)
