"""One training run from a dataset to a LoRA file: reuse, resume, train, check, save."""

from __future__ import annotations

import contextlib
import glob
import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import torch

from .adapter import add_adapters
from .data import Example, Plan, Tokenize, prepare
from .errors import DatasetError, LoraFileError, NonFiniteLoss
from .identity import run_id
from .latents import Encode, LatentsCache
from .loop import Step, Trainer
from .lora_file import lora_tensors, read_metadata, save_lora
from .metadata import RUN_KEY, RunFacts, lora_metadata
from .samples import Dataset
from .sdxl import Parts
from .settings import TrainSettings
from .state import load_state, save_state
from .summary import plan_lines, result_lines
from .validate import held_out_loss

STATE_EVERY_SECONDS = 600


@dataclass(frozen=True)
class Base:
    """The model that is trained on: its name for people, the hashes of its weights for the run's identity."""

    name: str
    fingerprint: str
    vae_fingerprint: str


@dataclass(frozen=True)
class Folders:
    """loras: where LoRA files go. work: latents and states, safe to delete between runs."""

    loras: Path
    work: Path


class Watcher(Protocol):
    """Whoever shows a run. What a method raises ends the run; its state is saved first."""

    def stage(self, name: str, done: int, total: int) -> None:
        """Work before or after training: 'encoding images' 3 of 40."""

    def step(self, step: Step) -> None:
        """An optimizer step is finished."""

    def say(self, line: str) -> None:
        """A line for the console and the report."""


@dataclass(frozen=True)
class Result:
    """What a run made. ``path``: the LoRA file. ``reused``: it was there already, nothing was trained."""

    path: Path
    losses: tuple[float, ...]
    report: str
    reused: bool
    held_out: tuple[float, float] | None = None


@dataclass
class Job:
    """Everything a run needs. ``parts`` makes the networks; it is called only if there is something to train."""

    dataset: Dataset
    settings: TrainSettings
    base: Base
    folders: Folders
    parts: Callable[[], Parts]
    tokenize: Tokenize
    encode: Encode
    device: torch.device
    watcher: Watcher
    lines: list[str] = field(default_factory=list)

    def say(self, line: str) -> None:
        self.lines.append(line)
        self.watcher.say(line)


def train(job: Job) -> Result:
    """Run a job to its end, or go on with one that was interrupted, or find that it is done already.

    Raises:
        TrainerError: whatever the user can put right, one sentence.
    """
    run = run_id(job.settings, job.dataset, job.base.fingerprint, job.base.vae_fingerprint)
    path, finished = _place_for(job, run)
    if finished:
        job.say(f"{path.name} holds this very run already; it is used as it is.")
        return Result(path, _stored_losses(path), "\n".join(job.lines), reused=True)
    return _Session(job, run, path).train()


def _place_for(job: Job, run: str) -> tuple[Path, bool]:
    """The file to write, and whether it is there already. No file of another run is ever overwritten."""
    number = 1
    while True:
        name = job.settings.output_name + (f"_{number}" if number > 1 else "")
        path = job.folders.loras / f"{name}.safetensors"
        if _run_of(path) == run:
            return path, True
        if not path.exists() and all(_run_of(file) == run for file in _files_on_the_way(path)):
            if number > 1:
                job.say(f"{job.settings.output_name}.safetensors is of another run, so this one becomes {path.name}.")
            return path, False
        number += 1


def _files_on_the_way(path: Path) -> list[Path]:
    """What a run to ``path`` left or may leave beside it: files of its epochs and of a last good step."""
    beside = path.parent.glob(f"{glob.escape(path.stem)}-*.safetensors")
    return [file for file in beside if re.fullmatch(r"-(\d{6}|step\d{8})", file.stem[len(path.stem) :])]


def _run_of(path: Path) -> str | None:
    """The run that wrote a LoRA file, without the step at which it did; None for anything else."""
    try:
        return read_metadata(path).get(RUN_KEY, "").partition("@")[0] or None
    except LoraFileError:
        return None


def _stored_losses(path: Path) -> tuple[float, ...]:
    text = read_metadata(path).get("mjesec_losses", "")
    return tuple(float(v) for v in text.split(",") if v)


class _Session:
    """The part of a run in which something is trained."""

    def __init__(self, job: Job, run: str, path: Path) -> None:
        self.job, self.run, self.path, self.settings = job, run, path, job.settings
        self.state_path = job.folders.work / "runs" / run[:32] / "state.safetensors"
        self.started = time.time()
        self.training, self.held_out = _split(job.dataset, job.settings)

    def train(self) -> Result:
        examples, validation = self._prepare()
        for line in plan_lines(self.settings, self.training, self.job.tokenize, Plan(examples, self.settings)):
            self.job.say(line)
        parts = self.job.parts()
        adapters = add_adapters(parts, self.settings)
        _set_modes(parts, self.settings)
        trainer = Trainer(parts, adapters, examples, self.settings, self.job.device)
        if load_state(self.state_path, trainer, self.run):
            self.job.say(f"Going on from step {trainer.progress.step} of {self.settings.steps}.")
        base_loss = self._validate(trainer, validation, base=True)
        with self._nothing_lost(trainer):
            self._run(trainer)
            tuned_loss = self._validate(trainer, validation, base=False)
            self._save(trainer, self.path)
        self.state_path.unlink(missing_ok=True)
        held_out = None if base_loss is None else (base_loss, tuned_loss)
        for line in result_lines(trainer, self.path, held_out, time.time() - self.started):
            self.job.say(line)
        return Result(self.path, tuple(trainer.progress.losses), "\n".join(self.job.lines), False, held_out)

    def _prepare(self) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
        job = self.job
        cache = LatentsCache(job.folders.work / "latents", job.base.vae_fingerprint, job.encode)
        both = replace(self.training, samples=self.training.samples + self.held_out.samples)
        examples = prepare(
            both, self.settings, cache, job.tokenize, lambda done, of: job.watcher.stage("encoding images", done, of)
        )
        count = self.training.num_images
        return examples[:count], examples[count:]

    def _validate(self, trainer: Trainer, examples: tuple[Example, ...], *, base: bool) -> float | None:
        if not examples:
            return None
        stage = "held-out loss of the base" if base else "held-out loss with the LoRA"
        adapters: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if base:
            adapters = trainer.adapters.disabled()
        with adapters:
            return held_out_loss(trainer, examples, lambda done, of: self.job.watcher.stage(stage, done, of))

    def _run(self, trainer: Trainer) -> None:
        saved = time.monotonic()

        def on_step(step: Step) -> None:
            nonlocal saved
            if self._epoch_file_due(trainer, step):
                epoch = trainer.plan.epoch_of(step.step - 1) + 1
                self._save(trainer, self.path.with_name(f"{self.path.stem}-{epoch:06d}.safetensors"))
            if time.monotonic() - saved > STATE_EVERY_SECONDS:
                save_state(self.state_path, trainer, self.run)
                saved = time.monotonic()
            self.job.watcher.step(step)

        trainer.run(on_step)

    @contextlib.contextmanager
    def _nothing_lost(self, trainer: Trainer) -> Iterator[None]:
        """Keeps what was computed, whatever ends the run: a cancel, a full disk, a loss that is no number."""
        try:
            yield
        except NonFiniteLoss as error:
            self._keep_last_good(trainer, error)
            raise
        except BaseException:
            if trainer.progress.step:
                with contextlib.suppress(LoraFileError):
                    save_state(self.state_path, trainer, self.run)
                    self.job.watcher.say(
                        f"Stopped after step {trainer.progress.step}; queue again to go on from there."
                    )
            raise

    def _epoch_file_due(self, trainer: Trainer, step: Step) -> bool:
        every = self.settings.save_every_epochs
        if not every or step.step == step.steps or not trainer.plan.ends_epoch(step.step - 1):
            return False
        return (trainer.plan.epoch_of(step.step - 1) + 1) % every == 0

    def _keep_last_good(self, trainer: Trainer, error: NonFiniteLoss) -> None:
        """Saves the LoRA as of the last good step and says in the error where it is."""
        if not (step := trainer.progress.step):
            return
        kept = self.path.with_name(f"{self.path.stem}-step{step:08d}.safetensors")
        try:
            self._save(trainer, kept)
            fate = f"The LoRA as of step {step} is kept in '{kept.name}'."
        except LoraFileError as reason:
            fate = f"The LoRA as of step {step} could not be kept: {reason}"
        error.args = (f"{error.args[0]} {fate}",)

    def _save(self, trainer: Trainer, path: Path) -> None:
        progress, plan = trainer.progress, trainer.plan
        facts = RunFacts(
            run=self.run if path == self.path else f"{self.run}@{progress.step}",
            name=path.stem,
            base_name=self.job.base.name,
            started=self.started,
            finished=time.time(),
            step=progress.step,
            epoch=math.ceil(progress.step / plan.steps_per_epoch),
            epochs=math.ceil(plan.epochs),
            steps_per_epoch=plan.steps_per_epoch,
            prediction=trainer.parts.prediction,
        )
        metadata = lora_metadata(self.settings, self.training, tuple(trainer.examples), facts)
        # hosts refuse headers over 1 MiB: a long run's losses are thinned, never the metadata other tools read
        metadata["mjesec_losses"] = ",".join(f"{loss:.5g}" for loss in _thinned(progress.losses, 20_000))
        save_lora(path, lora_tensors(trainer.adapters, self.settings.save_precision), metadata)


def _thinned(losses: list[float], most: int) -> list[float]:
    return losses[:: math.ceil(len(losses) / most)] if len(losses) > most else losses


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
