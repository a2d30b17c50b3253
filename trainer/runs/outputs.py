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

import psutil

from ..errors import LoraFileError
from ..lora.file import read_metadata, read_precision
from ..lora.metadata import RUN_KEY
from ..training.state import precision_of
from .log import LOG_NAME, read_ends

VALIDATION_KEY = "mjesec_validation"
STATE_NAME = "state.safetensors"

_ON_THE_WAY = re.compile(r"(-(\d{6}|step\d{8}|best))?(-ema)?")


@dataclass(frozen=True)
class Outputs:
    """Where one run writes. ``lora``: the file of the finished run."""

    lora: Path
    folder: Path

    @property
    def state(self) -> Path:
        return self.folder / STATE_NAME

    @property
    def mark(self) -> str:
        """The run in eight digits, for names of folders that people look into."""
        return self.folder.name[:8]

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
        # this process writes none yet; an earlier one of the same number did
        if process.isdigit() and (int(process) == os.getpid() or not psutil.pid_exists(int(process))):
            yield file


@dataclass(frozen=True)
class Place:
    """Where a run's files are or will be.

    finished: the file of this very run is there already. twin: it is there under another name alone.
    taken: why it does not have the name that was asked for, such as "moon.safetensors is of another run", or empty.
    """

    outputs: Outputs
    finished: bool
    twin: Path | None = None
    taken: str = ""


def find_place(name: str, run: str, precision: str, loras: Path, work: Path) -> Place:
    """The files of run ``run``: under ``name``, or ``name_2`` and so on where others have the name already.

    precision: of the file that is wanted; one of the same run in another is left alone like those of others.
    """
    folder = run_folder(work, run)
    number, taken = 1, ""
    while True:
        path = loras / f"{name}{f'_{number}' if number > 1 else ''}.safetensors"
        if _holds(path, run, precision):
            return Place(Outputs(path, folder), True, taken=taken)
        if not path.exists() and all(run_of(file) == run for file in files_on_the_way(path)):
            return Place(Outputs(path, folder), False, _twin(folder, run, precision, loras), taken)
        taken = taken or _why_taken(path, run)
        number += 1


def _why_taken(path: Path, run: str) -> str:
    if path.exists():
        return f"{path.name} {_other(path, run)}"
    others = (file.name for file in sorted(files_on_the_way(path)) if run_of(file) != run)
    return f"{next(others, path.name)} is of another run"


def _other(path: Path, run: str) -> str:
    """What a file is that stands where a run's would."""
    mark = mark_of(path)
    if mark == run:
        return "holds this run in another precision"
    return "is of a step of this run" if mark is not None and mark.startswith(f"{run}@") else "is of another run"


def forget_finished(place: Place) -> None:
    """Delete the state of a finished run whose process was killed before it could.

    The same run in another precision, which may be unfinished, has its state in the same place: that one stays.
    """
    state, file = place.outputs.state, place.twin or place.outputs.lora
    # another process may hold it open
    with contextlib.suppress(OSError, LoraFileError):
        if precision := precision_of(state):
            done = precision == read_precision(file)
        else:
            # written by an earlier version, which did not keep it
            done = state.stat().st_mtime_ns <= file.stat().st_mtime_ns
        if done:
            state.unlink()


def _holds(path: Path, run: str, precision: str) -> bool:
    """Whether a file is the LoRA of the finished run."""
    return mark_of(path) == run and read_precision(path) == precision


def _twin(folder: Path, run: str, precision: str, loras: Path) -> Path | None:
    """The finished run's file under the name that its log knows."""
    ends = [record for record in read_ends(folder / LOG_NAME) if record.get("state") == "finished"]
    name = ends[-1].get("file") if ends else None
    # a log may be written by anybody
    if not isinstance(name, str) or not name or Path(name).name != name:
        return None
    path = loras / name
    return path if _holds(path, run, precision) else None


def unfinished(work: Path, run: str) -> list[int]:
    """Bytes of each saved state of other runs, which lie in ``runs`` until those runs are finished."""
    states = []
    for path in (work / "runs").glob(f"*/{STATE_NAME}"):
        # a run may be finished while this looks at it
        with contextlib.suppress(OSError):
            if path.parent.name != folder_name(run):
                states.append(path.stat().st_size)
    return states


def folder_name(run: str) -> str:
    """A run's id for people and routes, and the name of its folder."""
    return run[:32]


def run_folder(work: Path, run: str) -> Path:
    """Where state and log of a run lie."""
    return work / "runs" / folder_name(run)


def files_on_the_way(path: Path) -> list[Path]:
    """What a run to ``path`` left or may leave beside it: files of its epochs and of single steps."""
    beside = path.parent.glob(f"{glob.escape(path.stem)}-*.safetensors")
    return [file for file in beside if beside_name(file.name, path)]


def beside_name(name: str, path: Path) -> bool:
    """Whether a run to ``path`` gives a file this name on the way."""
    ending = name.removeprefix(path.stem).removesuffix(".safetensors")
    return name == f"{path.stem}{ending}.safetensors" and bool(ending) and _ON_THE_WAY.fullmatch(ending) is not None


def mark_of(path: Path) -> str | None:
    """The run that wrote a LoRA file and, unless it was finished, ``@`` and its step; None for anything else."""
    try:
        return read_metadata(path).get(RUN_KEY) or None
    except LoraFileError:
        return None


def run_of(path: Path) -> str | None:
    """The run that wrote a LoRA file, without the step at which it did; None for anything else."""
    return (mark_of(path) or "").partition("@")[0] or None


def stored_losses(path: Path) -> tuple[float, ...]:
    """The losses of the run that wrote a LoRA file, thinned for long runs."""
    text = read_metadata(path).get("mjesec_losses", "")
    return tuple(float(v) for v in text.split(",") if v)


def stored_validation(path: Path) -> tuple[tuple[int, float], ...]:
    """Steps and held-out losses of the run that wrote a LoRA file."""
    return tuple((int(step), float(loss)) for step, loss in json.loads(read_metadata(path).get(VALIDATION_KEY, "[]")))
