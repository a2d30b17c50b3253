"""The runs of this process, with their controls, and those of earlier ones, from their logs on disk."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from .control import Control
from .log import LOG_NAME, Record, read_ends, read_records
from .status import ENDED, RunStatus, killed, point_of, points_of, samples_in, samples_of, status_of

Send = Callable[[dict[str, Any]], None]
_SEND_EVERY_SECONDS = 0.25
_MOST_LISTED = 200
_ID = re.compile(r"[0-9a-f]{32}")


class LiveRun:
    """A run of this process. ``send`` gets RUN with new points and samples, at most four times a second.

    memory_mb: asked at every sending.
    """

    def __init__(self, control: Control, send: Send, memory_mb: Callable[[], float | None]) -> None:
        self.control = control
        self.status = RunStatus()
        self._send, self._memory_mb = send, memory_mb
        self._lock = threading.Lock()
        self._points: dict[int, dict[str, Any]] = {}
        self._latest: dict[str, Any] = {}
        self._samples: list[dict[str, Any]] = []
        self._sent = 0.0

    def hear(self, record: Record) -> None:
        """A record of the run's log: the status follows it, whoever watches is told."""
        with self._lock:
            before, self.status = self.status.state, self.status.after(record)
            earlier = self._latest if self._latest.get("step") == record["step"] else None
            if (point := point_of(record, earlier)) is not None:
                self._points[record["step"]] = self._latest = point
            self._samples += samples_in(record)
        self._tell(force=self.status.state != before or record["event"] in ("begin", "sample", "saved"))

    def stage(self, name: str, done: int, total: int) -> None:
        """Work that is no step: 'encoding images' 3 of 40."""
        stage = f"{name}: {done}/{total}"
        if stage != self.status.stage:
            with self._lock:
                self.status = replace(self.status, stage=stage)
            self._tell(force=done == total)

    def ask(self, wish: str) -> None:
        """Pass a wish on to the run, and tell everybody what may be asked now.

        Raises:
            ValueError: the run has ended, or its control refuses.
        """
        if self.status.state in ENDED:
            raise ValueError("The run has ended.")
        getattr(self.control, wish)()
        self._tell(force=True)

    def as_dict(self) -> dict[str, Any]:
        """RUN as it stands now."""
        status = self.status
        wishes = () if status.state in ENDED else self.control.wishes()
        return status.as_dict(self._memory_mb(), wishes)

    def _tell(self, *, force: bool) -> None:
        # under the lock also while it is sent: a status must not overtake a later one
        with self._lock:
            now = time.monotonic()
            if not self.status.id or (not force and now - self._sent < _SEND_EVERY_SECONDS):
                return
            self._sent = now
            message = {**self.as_dict(), "points": list(self._points.values()), "samples": self._samples}
            self._points, self._samples = {}, []
            self._send(message)


class Runs:
    """All runs that can be asked about. ``folder``: where each run has a folder with its log."""

    def __init__(self, folder: Callable[[], Path]) -> None:
        self._folder = folder
        self._live: list[LiveRun] = []
        self._lock = threading.Lock()

    def begin(self, live: LiveRun) -> LiveRun:
        """Remember a run for as long as this process lives; it is listed once it has an id."""
        with self._lock:
            self._live = [run for run in self._live if run.status.state not in ENDED or run.status.id][-_MOST_LISTED:]
            self._live.append(live)
        return live

    def live(self, run: str) -> LiveRun | None:
        """The latest run of that id in this process."""
        with self._lock:
            return next((live for live in reversed(self._live) if live.status.id == run), None)

    def status(self, run: str) -> RunStatus | None:
        """How a run stands; None where nobody knows it."""
        if (live := self.live(run)) is not None:
            return live.status
        if not _ID.fullmatch(run):
            return None
        status = status_of(read_ends(self._log(run)))
        # its folder names it, whatever the log says
        return None if status is None else replace(killed(status), id=run)

    def told(self, run: str) -> dict[str, Any] | None:
        """RUN of the routes; None where nobody knows it."""
        if (live := self.live(run)) is not None:
            return live.as_dict()
        status = self.status(run)
        return None if status is None else status.as_dict()

    def all_told(self) -> tuple[list[dict[str, Any]], int]:
        """RUN of the newest runs, the newest first, and how many older ones only ``told`` knows."""
        statuses, older = self._listed()
        lives = ((status, self.live(status.id)) for status in statuses)
        return [status.as_dict() if live is None else live.as_dict() for status, live in lives], older

    def all(self) -> list[RunStatus]:
        """The newest runs, the newest first."""
        return self._listed()[0]

    def _listed(self) -> tuple[list[RunStatus], int]:
        with self._lock:
            known = {live.status.id: live.status for live in self._live if live.status.id}
        folders = self._folders()
        for folder in folders[:_MOST_LISTED]:
            if folder.name not in known and (status := self.status(folder.name)) is not None:
                known[folder.name] = status
        older = sum(folder.name not in known for folder in folders[_MOST_LISTED:])
        return sorted(known.values(), key=lambda status: status.time, reverse=True), older

    def _folders(self) -> list[Path]:
        logs = []
        for path in self._folder().glob(f"*/{LOG_NAME}"):
            # a folder may be deleted while this looks at it
            with contextlib.suppress(OSError):
                if _ID.fullmatch(path.parent.name):
                    logs.append((path.stat().st_mtime, path.parent))
        return [folder for _, folder in sorted(logs, reverse=True)]

    def _log(self, run: str) -> Path:
        return self._folder() / run / LOG_NAME

    def curve(self, run: str, since: int) -> dict[str, Any]:
        """Points and samples of steps after ``since``, from the log on disk."""
        records = read_records(self._log(run)) if _ID.fullmatch(run) else []
        return {"points": points_of(records, since), "samples": samples_of(records, since)}
