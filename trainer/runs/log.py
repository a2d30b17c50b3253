"""The log of a run on disk: one JSON object a line, in the order of events, readable while it grows.

Every record has ``event`` and ``step`` (optimizer steps finished). Events:

begin       id, name, steps, steps_per_epoch, time and whatever asked for the run; also after every resumption
step        loss, smoothed_loss, lr (rate by group), gradient_norm, seconds_per_step, taken
saved       file
paused, resumed
end         state (``finished``, ``stopped`` or ``failed``), message, and for a LoRA its file
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from ..errors import LoraFileError
from ..files import write_atomically

Record = Mapping[str, Any]
LOG_NAME = "log.jsonl"
_TAIL_BYTES = 16_384


class RunLog:
    """Writes the log; everybody in ``listeners`` hears each record too, also those before ``open``."""

    def __init__(self, path: Path, *listeners: Callable[[Record], None]) -> None:
        self.path, self.listeners = path, list(listeners)
        self._file: IO[str] | None = None
        self._wanted = False
        self._step = 0

    def open(self, step: int) -> int:
        """Go on after ``step``: what an earlier process logged beyond it will happen again and is dropped.

        Returns the last step that is in the log.

        Raises:
            LoraFileError: the log cannot be written.
        """
        kept = [record for record in read_records(self.path) if record["step"] <= step] if step else []
        text = "".join(json.dumps(record) + "\n" for record in kept)
        write_atomically(self.path, lambda scratch: scratch.write_text(text, "utf-8"))
        try:
            self._file = self._opened()
        except OSError as error:
            raise LoraFileError(f"'{self.path}' cannot be written: {error.strerror}.") from error
        self._wanted = True
        return max((record["step"] for record in kept if record["event"] == "step"), default=0)

    def go_on(self, step: int) -> None:
        """Write after what is there, at that step; a disk that is full costs the lines alone."""
        self._step, self._wanted = step, True

    def write(self, event: str, step: int, **values: object) -> None:
        """Append a record. A disk that is full costs the lines of that time, never the run.

        A log that somebody has deleted, as with the run's whole folder, is there again with all of its records.
        """
        self._step = step
        record = {"event": event, "step": step, **{key: _plain(value) for key, value in values.items()}}
        if self._wanted:
            try:
                self._put_back()
                self._file = self._file or self._opened()
                self._file.write(json.dumps(record) + "\n")
                self._file.flush()
            except OSError:
                self._let_go()
        for listener in self.listeners:
            # whoever writes elsewhere meets full disks too
            with contextlib.suppress(OSError):
                listener(record)

    def end(self, state: str, message: str, file: str = "") -> None:
        """The last record of a run, at the step where it stands."""
        self.write("end", self._step, state=state, message=message, file=file)

    def close(self) -> None:
        self._wanted = False
        self._let_go()

    def _put_back(self) -> None:
        if self._file is None or self.path.exists():
            return
        deleted, self._file = self._file, None
        # what is open can be read although it has no name any more
        with deleted:
            deleted.seek(0)
            text = deleted.read()
        self._file = self._opened()
        self._file.write(text)

    def _opened(self) -> IO[str]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        cut_off = _is_cut_off(self.path)
        file = open(self.path, "a+", encoding="utf-8")  # noqa: SIM115 - closed by close
        if cut_off:
            file.write("\n")
        return file

    def _let_go(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            try:
                file.close()
            except OSError:
                return


def end_log(path: Path, file: str) -> None:
    """Add the end that a process did not come to write, killed once the run's LoRA ``file`` was whole."""
    records = read_ends(path)
    if records and records[-1]["event"] != "end":
        log = RunLog(path)
        log.go_on(records[-1]["step"])
        log.end("finished", f"Saved {file}.", file)
        log.close()


def _is_cut_off(path: Path) -> bool:
    """Whether the last line is not whole."""
    if not path.exists():
        return False
    with open(path, "rb") as file:
        if not file.seek(0, os.SEEK_END):
            return False
        file.seek(-1, os.SEEK_END)
        return file.read() != b"\n"


def _plain(value: object) -> object:
    # JSON knows no NaN and no infinity, and browsers refuse them
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value


def read_records(path: Path) -> list[Record]:
    """All whole records of a log; none where there is no log. A line that a crash cut off is skipped."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return list(_parsed(file))
    except OSError:
        return []


def read_ends(path: Path) -> list[Record]:
    """The first record and the last few: enough to say how a run stands, however long its log is."""
    try:
        with open(path, "rb") as file:
            lines = [file.readline()]
            start = max(file.tell(), os.fstat(file.fileno()).st_size - _TAIL_BYTES)
            file.seek(start)
            lines += file.read().splitlines()
    except OSError:
        return []
    return list(_parsed(line.decode("utf-8", "replace") for line in lines))


def _parsed(lines: Iterator[str] | IO[str]) -> Iterator[Record]:
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int) and isinstance(record.get("event"), str):
            yield record
