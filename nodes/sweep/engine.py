"""Runs a sweep: what is on disk is taken from there, the rest is computed and put there, one failure stops nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import latent_preview
import torch
from PIL import Image

from ...figures import Axis, Cell, cells, execution_order, write_manifest_json
from ..images import to_pillow
from ..progress import NodeWatcher
from .cell_key import Keys
from .cell_store import CellStore, Kept
from .grid import CellResult, Grid, Index
from .preflight import Memory, Preflight, memory_of, preflight
from .sampling import OnStep, Studio
from .shot import Shot, shot_of

_LOOK_AT_ONCE = 20  # cells between two words about how far it is


@dataclass(frozen=True)
class Job:
    """A cell, its shot, and the names under which the store may hold it, the first being the one to make.

    keys: none where the cell has no name because a file of its own cannot be read; ``error`` tells why.
    """

    cell: Cell
    shot: Shot
    ways: tuple[str, ...]
    keys: tuple[str, ...]
    error: str = ""


@dataclass
class Sweeping:
    """One run over the cells of some axes; ``graph_of`` gives the graph that each cell's file is to carry.

    checks: by sampler and way, how far fast cells are from exact ones; checking: seconds that these took. at_once:
    cells that the running sampling makes.
    """

    axes: tuple[Axis, ...]
    base: Shot
    studio: Studio
    store: CellStore
    mode: str
    watcher: NodeWatcher
    graph_of: Callable[[Shot], Mapping[str, object] | None]
    keys: Keys = field(init=False)
    jobs: list[Job] = field(init=False)
    notes: list[str] = field(default_factory=list)
    checks: dict[tuple[str, str], dict[str, object]] = field(default_factory=dict)
    checking: float = 0.0
    at_once: int = 1
    _done: dict[Index, CellResult] = field(default_factory=dict)
    _rates: list[float] = field(default_factory=list)
    _computed: int = 0
    _missing: int = 0
    _work: float = 0.0
    _work_done: float = 0.0
    _began: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        self.keys = Keys(self.studio.subject, self._reading)
        ways = ("fast", "exact") if self.mode == "fast" else ("exact",)
        self.studio.seal, self.studio.watch = self.keys, self._follow
        self.jobs = []
        for cell in execution_order(cells(self.axes)):
            self.jobs.append(self._job(cell, shot_of(self.base, cell, self.axes), ways))
        if fleeting := self.keys.fleeting():
            self.notes.append(
                f"The wires carry what has no lasting hash ({', '.join(fleeting)}): "
                "these cells are found again only until ComfyUI restarts."
            )

    def _job(self, cell: Cell, shot: Shot, ways: tuple[str, ...]) -> Job:
        try:
            return Job(cell, shot, ways, tuple(self.keys.of(shot, way) for way in ways))
        except Exception as error:  # a file that cannot be read is this cell's failure and no other's
            return Job(cell, shot, ways, (), _reason(error))

    def look(self) -> Preflight:
        """Find what is on disk, and count the rest."""
        for number, job in enumerate(self.jobs):
            if number and number % _LOOK_AT_ONCE == 0:
                self.watcher.stage("cells on disk", number, len(self.jobs))
            if job.error:
                self._put(job, CellResult("", job.error, 0.0, parameters=asdict(job.shot)))
            elif kept := self._find(job):
                self._put(job, kept)
        todo = self.missing(self.jobs)
        self._missing = len(todo)
        # a value that an axis repeats is computed once
        shots = list({job.keys[0]: job.shot for job in todo}.values())
        self._work = sum(shot.work for shot in shots)
        unreadable = sum(bool(job.error) for job in self.jobs)
        return preflight(
            self.axes, [(job.cell, job.shot) for job in self.jobs], shots, self.store.rate(self._kind),
            on_disk=len(self.jobs) - len(todo) - unreadable, unreadable=unreadable, memory=self._memory(todo),
        )  # fmt: skip

    def _reading(self, name: str, done: int, size: int) -> None:
        self.watcher.stage(f"reading {name}, MB", done // 10**6, size // 10**6)

    def _memory(self, todo: list[Job]) -> Memory | None:
        """What the first of the cells to make will take, for all are alike or nearly so."""
        if not todo or self.studio.subject.model is None:
            return None
        largest = max((job.shot for job in todo), key=lambda shot: shot.width * shot.height)
        return memory_of(self.studio.subject.model, largest, fast=self.mode == "fast")

    def run(self, in_batches: Callable[[Sweeping, Sequence[Job]], None]) -> Grid:
        """Compute what ``look`` did not find; in fast mode, ``in_batches`` what can be.

        Raises:
            ValueError: not one cell could be made; tells why the first failed.
            CannotKeep: the folder of the cells takes no more; what is there stays.
        """
        if todo := self.missing(self.jobs):
            self.store.probe()
            self.watcher.stage("sweep", 0, self._missing)
        try:
            if self.mode == "fast":
                in_batches(self, todo)
            for job in self.missing(self.jobs):
                self.exactly(job)
        finally:
            self.store.note_rates(self._kind, self._rates)
        return self._finish()

    def exactly(self, job: Job) -> None:
        """One cell by the host's KSampler; a failure becomes its result."""
        # a cell with the values of another has been made by it
        if kept := self._find(job):
            self._accept(job, kept)
            return
        before = self.studio.busy
        try:
            image = self.studio.take(job.shot)
        except Exception as error:  # an interrupt is no Exception and ends the sweep
            self.fail(job, error, self.studio.busy - before)
        else:
            # what the cell takes, whichever of its neighbours was the first
            self.keep(job, image, "exact", self.studio.busy - before + self.studio.spared)

    def keep(
        self, job: Job, image: torch.Tensor, how: str, seconds: float, check: Mapping[str, object] | None = None
    ) -> None:
        """Put an image, (1, H, W, 3), on disk and show it; ``seconds`` of sampling and decoding, nothing else.

        Raises:
            CannotKeep: names the file that cannot be written; no further cell could be kept either.
        """
        picture = to_pillow(image[0])
        key = job.keys[job.ways.index(how)]
        told = {**asdict(job.shot), **self.studio.subject.told()}
        match = self.studio.match(job.shot)
        left_out = match.left_out if match else ""
        kept = self.store.keep(key, picture, seconds, told, self.graph_of(job.shot), check, left_out)
        self._rates.append(seconds / max(job.shot.work, 1e-9))
        self._accept(job, _result(job, kept, how, "computed"), picture)

    def missing(self, jobs: Sequence[Job]) -> list[Job]:
        """Those that have no result yet."""
        return [job for job in jobs if job.cell.index not in self._done]

    def fail(self, job: Job, error: Exception, seconds: float) -> None:
        self._accept(job, CellResult("", _reason(error), seconds, parameters=asdict(job.shot)))

    def note(self, line: str) -> None:
        """Something that the report and the manifest tell once."""
        if line not in self.notes:
            self.notes.append(line)
            self.watcher.say(line)

    def _follow(self, model: Any, shot: Shot) -> OnStep:
        """Steps as parts of a cell, so that one bar runs over the whole sweep."""
        previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)

        def on_step(step: int, x0: torch.Tensor, x: torch.Tensor, total: int) -> None:
            preview = previewer.decode_latent_to_preview_image("JPEG", x0) if previewer else None
            # the last part of a cell is its decoding
            part = self.at_once * (step + 1) / (total + 1)
            self.watcher.within("sweep", self._computed + part, self._missing, preview)

        return on_step

    def _accept(self, job: Job, result: CellResult, picture: Image.Image | None = None) -> None:
        self._put(job, result)
        self._computed += 1
        if result.source == "computed":
            self._work_done += job.shot.work
        share = self._work_done / self._work if self._work else None
        self.watcher.stage("sweep", self._computed, self._missing, picture, share)

    def _put(self, job: Job, result: CellResult) -> None:
        self._done[job.cell.index] = result
        if result.left_out:
            self.note(f"The LoRA {job.shot.lora_file or 'on the wire'} fits in part: {result.left_out}")

    def _find(self, job: Job) -> CellResult | None:
        for how, key in zip(job.ways, job.keys, strict=True):
            if kept := self.store.find(key):
                return _result(job, kept, how, "cached")
        return None

    @property
    def _kind(self) -> str:
        return f"{self.keys.model_hash[:16]} {self.mode}"

    def _finish(self) -> Grid:
        results = tuple(self._done[cell.index] for cell in cells(self.axes))
        grid = Grid(self.axes, results, {})
        if len(failed := grid.failed()) == len(results):
            raise ValueError(f"No cell could be made; the first failed with: {next(iter(failed.values()))}")
        for axis in grid.without_effect():
            self.note(f"Warning: {axis.label} changed nothing: along this axis all cells are identical.")
        about = {
            "environment": self.keys.environment,
            "hashes": self.keys.hashes(),
            "wired": self.studio.subject.told()["wired"],
            "parameters": asdict(self.base),
            "mode": self.mode,
            "notes": tuple(self.notes),
            "seconds": {
                "sampling_and_decoding": self.studio.busy,
                "of_which_checking_fast": self.checking,
                "all": time.perf_counter() - self._began,
            },
            "fast_check": _worst([result.check for result in results if result.how == "fast" and result.check]),
        }
        return Grid(self.axes, results, about)


def _worst(checks: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The largest of the measured differences, also of those that were measured when a cell came to the disk."""
    return max(checks, key=lambda check: check["relative_latent_error"], default=None)


def _reason(error: Exception) -> str:
    told = str(error)
    # a sentence says all; of other errors the kind may say more than the words
    return told if isinstance(error, ValueError) and told.endswith(".") else f"{type(error).__name__}: {told}"


def _result(job: Job, kept: Kept, how: str, source: str) -> CellResult:
    return CellResult(
        str(kept.path), "", kept.seconds, source, how, kept.path.stem, kept.pixels, asdict(job.shot), kept.check,
        kept.left_out,
    )  # fmt: skip


def write_manifest(grid: Grid, folder: Path) -> Path:
    """The grid's manifest as a new JSON file in ``folder``.

    Raises:
        OSError: names the file that cannot be written.
    """
    # one reading of the clock: names must sort as the sweeps came
    now = time.time_ns()
    stamp = f"{time.strftime('%Y%m%d-%H%M%S', time.localtime(now // 10**9))}-{now % 10**9:09d}"
    path = folder / f"{stamp}.json"
    write_manifest_json(json.loads(json.dumps(grid.manifest(), default=str)), path)
    return path
