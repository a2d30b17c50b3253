"""The files of a run and their names. No file of another run is ever overwritten."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .errors import LoraFileError
from .lora_file import read_metadata
from .metadata import RUN_KEY
from .run_log import LOG_NAME

VALIDATION_KEY = "mjesec_validation"

_ON_THE_WAY = re.compile(r"(-(\d{6}|step\d{8}|best))?(-ema)?")


@dataclass(frozen=True)
class Outputs:
    """Where one run writes. ``lora``: the file of the finished run."""

    lora: Path
    folder: Path

    @property
    def state(self) -> Path:
        return self.folder / "state.safetensors"

    @property
    def log(self) -> Path:
        return self.folder / LOG_NAME

    def of_epoch(self, epoch: int) -> Path:
        """``name-000001.safetensors``, as kohya names it; ``epoch`` counts from 1."""
        return self.lora.with_name(f"{self.lora.stem}-{epoch:06d}.safetensors")

    def of_step(self, step: int) -> Path:
        """``name-step00000123.safetensors``."""
        return self.lora.with_name(f"{self.lora.stem}-step{step:08d}.safetensors")

    @property
    def best(self) -> Path:
        """``name-best.safetensors``: the checkpoint of the lowest held-out loss."""
        return self.lora.with_name(f"{self.lora.stem}-best.safetensors")

    def mean_of(self, path: Path) -> Path:
        """``name-ema.safetensors`` beside ``name.safetensors``, and so for every file of the run."""
        return path.with_name(f"{path.stem}-ema.safetensors")

    def remove_scratch(self) -> None:
        """Delete temporary files that killed processes left."""
        for file in [*_scratch(self.folder, ""), *_scratch(self.lora.parent, self.lora.stem)]:
            with contextlib.suppress(OSError):
                file.unlink()


def _scratch(folder: Path, stem: str) -> Iterator[Path]:
    for file in folder.glob(f".{glob.escape(stem)}*.part"):
        process = file.name.removesuffix(".part").rpartition(".")[2]
        if process.isdigit() and not _alive(int(process)):
            yield file


def _alive(process: int) -> bool:
    if os.name == "nt":  # signal 0 would end the process there
        return process != os.getpid()
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return process != os.getpid()


@dataclass(frozen=True)
class Place:
    """finished: the file of this very run is there already. taken: the name that another run has, or empty."""

    outputs: Outputs
    finished: bool
    taken: str = ""


def find_place(name: str, run: str, loras: Path, work: Path) -> Place:
    """The files of run ``run``: under ``name``, or ``name_2`` and so on where others have the name already."""
    folder = run_folder(work, run)
    number = 1
    while True:
        path = loras / f"{name}{f'_{number}' if number > 1 else ''}.safetensors"
        taken = f"{name}.safetensors" if number > 1 else ""
        if run_of(path) == run:
            return Place(Outputs(path, folder), True, taken)
        if not path.exists() and all(run_of(file) == run for file in _files_on_the_way(path)):
            return Place(Outputs(path, folder), False, taken)
        number += 1


def folder_name(run: str) -> str:
    """A run's id for people and routes, and the name of its folder."""
    return run[:32]


def run_folder(work: Path, run: str) -> Path:
    """Where state and log of a run lie."""
    return work / "runs" / folder_name(run)


def _files_on_the_way(path: Path) -> list[Path]:
    """What a run to ``path`` left or may leave beside it: files of its epochs and of single steps."""
    beside = path.parent.glob(f"{glob.escape(path.stem)}-*.safetensors")
    return [file for file in beside if _ON_THE_WAY.fullmatch(file.stem[len(path.stem) :])]


def run_of(path: Path) -> str | None:
    """The run that wrote a LoRA file, without the step at which it did; None for anything else."""
    try:
        return read_metadata(path).get(RUN_KEY, "").partition("@")[0] or None
    except LoraFileError:
        return None


def stored_losses(path: Path) -> tuple[float, ...]:
    """The losses of the run that wrote a LoRA file, thinned for long runs."""
    text = read_metadata(path).get("mjesec_losses", "")
    return tuple(float(v) for v in text.split(",") if v)


def stored_validation(path: Path) -> tuple[tuple[int, float], ...]:
    """Steps and held-out losses of the run that wrote a LoRA file."""
    return tuple((int(step), float(loss)) for step, loss in json.loads(read_metadata(path).get(VALIDATION_KEY, "[]")))
