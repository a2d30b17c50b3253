"""Files that a node gave on: ComfyUI keeps the node's results, and those are worth nothing once a file is gone."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


class GivenFiles:
    """What a node's results of this session point to, and a fingerprint that changes when some of it is gone."""

    def __init__(self) -> None:
        self._files: set[Path] = set()
        self._losses = 0

    def add(self, files: Iterable[Path]) -> None:
        self._files.update(files)

    def fingerprint(self) -> int:
        """How often files were found gone. They are then forgotten: what is made in their stead is kept like any."""
        gone = {file for file in self._files if not file.is_file()}
        if gone:
            self._files -= gone
            self._losses += 1
        return self._losses
