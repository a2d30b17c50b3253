"""What a run is given and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch

from ..dataset.samples import Dataset
from ..sdxl.parts import Encode, Parts
from ..settings.training import TrainSettings
from ..training.data import Tokenize
from ..training.loop import Step
from ..training.processes import ALONE, Processes
from .control import Control
from .outputs import Outputs


@dataclass(frozen=True)
class Base:
    """The model that is trained on: its name for people, the hashes of its weights for the run's identity.

    file: the checkpoint that it was loaded from; None where nobody knows.
    """

    name: str
    fingerprint: str
    vae_fingerprint: str
    file: Path | None = None


@dataclass(frozen=True)
class Folders:
    """loras: where LoRA files go. work: latents, states and logs, safe to delete between runs."""

    loras: Path
    work: Path


class Watcher(Protocol):
    """Whoever shows a run. What a method raises ends the run; its state is saved first."""

    def stage(self, name: str, done: int, total: int) -> None:
        """Work before or after training: 'encoding images' 3 of 40. Called again and again during a pause."""

    def step(self, step: Step) -> None:
        """An optimizer step is finished."""

    def say(self, line: str) -> None:
        """A line for the console and the report."""


@dataclass(frozen=True)
class Result:
    """What a run made. ``path``: the LoRA file. ``reused``: it was there already, nothing was trained.

    validation: held-out losses by step; step 0 is the base.
    stopped: the user ended the run early; ``path`` then holds the LoRA as of that step.
    """

    path: Path
    losses: tuple[float, ...]
    report: str
    reused: bool
    held_out: tuple[float, float] | None = None
    stopped: bool = False
    validation: tuple[tuple[int, float], ...] = ()


class Sampler(Protocol):
    """Draws sample images with the adapters as they are. ``every``: optimizer steps between samples; 0 never."""

    every: int

    def needs_room(self) -> bool:
        """Whether the networks that are trained must lend their memory before ``draw``."""

    def draw(self, lora: Mapping[str, torch.Tensor], outputs: Outputs, step: int) -> Sequence[Mapping[str, str]]:
        """Draw with the tensors of a LoRA file; returns filename, subfolder and type of each image.

        It must leave the weights that are trained on as they were, bit for bit.
        """


def _nobody(record: Mapping[str, object]) -> None:
    """Hears the records of a run that nobody watches."""


@dataclass
class Job:
    """Everything a run needs. ``parts`` makes the networks: once at the start, and again after a pause.

    control: wishes of the user. on_record: told every record of the run's log as it is written.
    origin: who asked for the run, for the log ("node_id": "5"). sampler: draws images on the way; None for none.
    processes: who trains together; only the main one writes files.
    keepsakes: further entries for the metadata of the run's files, asked for when the first is written; the last ones
    are left out where they would make a file's header too long.
    free_bytes: memory that is free on the device; None where nobody knows.
    """

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
    control: Control = field(default_factory=Control)
    on_record: Callable[[Mapping[str, object]], None] = _nobody
    origin: Mapping[str, str] = field(default_factory=dict)
    sampler: Sampler | None = None
    keepsakes: Callable[[], Mapping[str, str]] = dict
    processes: Processes = ALONE
    free_bytes: Callable[[], int] | None = None

    def say(self, line: str) -> None:
        self.lines.append(line)
        self.watcher.say(line)
