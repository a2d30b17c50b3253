"""Runs a sweep: what is on disk is taken from there, the rest is computed and put there, one failure stops nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from PIL import Image

from ..figures import Axis, Cell, cells, execution_order, write_manifest_json
from .cell_key import Keys
from .cell_store import CellStore, Kept
from .grid import CellResult, Grid, Index
from .images import to_pillow
from .preflight import Preflight, preflight
from .progress import NodeWatcher
from .sampling import Studio
from .shot import Shot, shot_of


@dataclass(frozen=True)
class Job:
    """A cell, its shot, and the names under which the store may hold it, the first being the one to make."""

    cell: Cell
    shot: Shot
    ways: tuple[str, ...]
    keys: tuple[str, ...]


@dataclass
class Sweeping:
    """One run over the cells of some axes; ``graph_of`` gives the graph that each cell's file is to carry."""

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
    check: dict[str, object] = field(default_factory=dict)
    _done: dict[Index, CellResult] = field(default_factory=dict)
    _rates: list[float] = field(default_factory=list)
    _computed: int = 0
    _missing: int = 0

    def __post_init__(self) -> None:
        self.keys = Keys(self.studio.subject)
        ways = ("fast", "exact") if self.mode == "fast" else ("exact",)
        self.jobs = []
        for cell in execution_order(cells(self.axes)):
            shot = shot_of(self.base, cell, self.axes)
            self.jobs.append(Job(cell, shot, ways, tuple(self.keys.of(shot, way) for way in ways)))
        if fleeting := self.keys.fleeting():
            self.notes.append(
                f"The wires carry what has no lasting hash ({', '.join(fleeting)}): "
                "these cells are found again only until ComfyUI restarts."
            )

    def look(self) -> Preflight:
        """Find what is on disk, and count the rest."""
        for job in self.jobs:
            if kept := self._find(job):
                self._done[job.cell.index] = kept
        todo = self._todo()
        self._missing = len(todo)
        rate = self.store.rate(self._kind)
        return preflight(self.axes, [(job.cell, job.shot) for job in self.jobs], [job.shot for job in todo], rate)

    def run(self) -> Grid:
        """Compute what ``look`` did not find.

        Raises:
            ValueError: not one cell could be made; tells why the first failed.
        """
        try:
            if self.mode == "fast":
                from .batching import run_fast

                run_fast(self, self._todo())
            for job in self._todo():
                self.watcher.stage("sweep", self._computed, self._missing)
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
        began = time.perf_counter()
        try:
            image = self.studio.take(job.shot)
            self.keep(job, image, "exact", time.perf_counter() - began)
        except Exception as error:  # an interrupt is no Exception and ends the sweep
            self.fail(job, error, time.perf_counter() - began)

    def keep(self, job: Job, image: torch.Tensor, how: str, seconds: float) -> None:
        """Put an image, (1, H, W, 3), on disk and show it.

        Raises:
            OSError: names the file that cannot be written.
        """
        picture = to_pillow(image[0])
        key = job.keys[job.ways.index(how)]
        told = {**asdict(job.shot), **self.studio.subject.told()}
        kept = self.store.keep(key, picture, seconds, told, self.graph_of(job.shot))
        self._rates.append(seconds / max(job.shot.work, 1e-9))
        self._accept(job, _result(job, kept, how, "computed"), picture)

    def fail(self, job: Job, error: Exception, seconds: float) -> None:
        reason = f"{type(error).__name__}: {error}"
        self._accept(job, CellResult("", reason, seconds, parameters=asdict(job.shot)))

    def note(self, line: str) -> None:
        """Something that the report and the manifest tell once."""
        if line not in self.notes:
            self.notes.append(line)
            self.watcher.say(line)

    def _accept(self, job: Job, result: CellResult, picture: Image.Image | None = None) -> None:
        self._done[job.cell.index] = result
        self._computed += 1
        self.watcher.stage("sweep", self._computed, self._missing, picture)

    def _find(self, job: Job) -> CellResult | None:
        for how, key in zip(job.ways, job.keys, strict=True):
            if kept := self.store.find(key):
                return _result(job, kept, how, "cached")
        return None

    def _todo(self) -> list[Job]:
        return [job for job in self.jobs if job.cell.index not in self._done]

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
            "parameters": asdict(self.base),
            "mode": self.mode,
            "notes": tuple(self.notes),
            "fast_check": self.check or None,
        }
        return Grid(self.axes, results, about)


def _result(job: Job, kept: Kept, how: str, source: str) -> CellResult:
    return CellResult(str(kept.path), "", kept.seconds, source, how, kept.path.stem, kept.pixels, asdict(job.shot))


def write_manifest(grid: Grid, folder: Path) -> Path:
    """The grid's manifest as a new JSON file in ``folder``.

    Raises:
        OSError: names the file that cannot be written.
    """
    stamp = f"{time.strftime('%Y%m%d-%H%M%S')}-{time.time_ns() % 10**9:09d}"
    path = folder / f"{stamp}.json"
    write_manifest_json(json.loads(json.dumps(grid.manifest(), default=str)), path)
    return path
