"""The hashes by which other tools know a checkpoint's file, read in the background of a run and kept on disk."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from ..errors import LoraFileError
from ..files import write_atomically

_PIECE = 1 << 24
_POLL_SECONDS = 0.1
# the piece that A1111 hashed at first
_OLD_START, _OLD_LENGTH = 0x100000, 0x10000


def _nobody(done: int, total: int) -> None:
    """Watches a wait that nobody watches."""


class BaseHashes:
    """kohya's ``ss_sd_model_hash`` and ``ss_new_sd_model_hash`` of a checkpoint: seven gigabytes take a while to read.

    file: None where nobody knows it; there are no hashes then. folder: where what was read once is kept, by the
    file's path, size and time. on_wait(done, total): MiB, called several times a second while somebody waits; what it
    raises ends the wait.
    """

    def __init__(self, file: Path | None, folder: Path, on_wait: Callable[[int, int], None] = _nobody) -> None:
        self._file, self._folder, self._on_wait = file, folder, on_wait
        self._bytes = self._of = 0
        self._found: dict[str, str] = {}
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._read, name="hash of the base", daemon=True)

    def begin(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """Nobody will ask any more."""
        self._enough.set()

    def get(self) -> Mapping[str, str]:
        """The metadata; waits until they are read. Empty where the file is unknown or cannot be read."""
        while self._thread.is_alive():
            self._thread.join(_POLL_SECONDS)
            if self._thread.is_alive():
                self._on_wait(self._bytes >> 20, max(self._of >> 20, 1))
        return self._found

    def _read(self) -> None:
        if self._file is None:
            return
        with contextlib.suppress(OSError):
            facts = self._file.stat()
            self._of = facts.st_size
            known = f"{self._file.resolve()} {facts.st_size} {facts.st_mtime_ns}"
            kept = self._folder / f"{hashlib.sha256(known.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}.json"
            self._found = _kept(kept) or self._fresh(kept)

    def _fresh(self, kept: Path) -> dict[str, str]:
        assert self._file is not None  # noqa: S101 - asked before
        whole = hashlib.sha256()
        with open(self._file, "rb") as file:
            file.seek(_OLD_START)
            old = hashlib.sha256(file.read(_OLD_LENGTH)).hexdigest()[:8]
            file.seek(0)
            while piece := file.read(_PIECE):
                whole.update(piece)
                self._bytes += len(piece)
                if self._enough.is_set():
                    return {}
        found = {"ss_sd_model_hash": old, "ss_new_sd_model_hash": whole.hexdigest()}
        # a full disk costs the next run time, nothing else
        with contextlib.suppress(LoraFileError):
            write_atomically(kept, lambda scratch: scratch.write_text(json.dumps(found), "utf-8"))
        return found


def _kept(path: Path) -> dict[str, str]:
    try:
        held = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return held if isinstance(held, dict) and all(isinstance(value, str) for value in held.values()) else {}
