"""Sweeps and cells on disk, found by name alone: what the figure viewer may see."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

from PIL import Image

from .cell_store import GRAPH, CellStore

_SWEEP = re.compile(r"\d{8}-\d{6}-\d{9}")
_KEY = re.compile(r"[0-9a-f]{64}")
_LARGEST_TILE = 1024
_MOST_LISTED = 200


class SweepFiles:
    """Reads below a work folder: ``sweeps/*.json`` and ``cells/``."""

    def __init__(self, work: Path) -> None:
        self._sweeps = work / "sweeps"
        self._cells = CellStore(work / "cells")

    def names(self) -> list[str]:
        """The manifests' names, the newest first, at most 200."""
        found = sorted((path.stem for path in self._sweeps.glob("*.json") if _SWEEP.fullmatch(path.stem)), reverse=True)
        return found[:_MOST_LISTED]

    def manifest(self, name: str) -> dict[str, Any] | None:
        """A sweep's manifest without any path of this machine; None if there is none of that name."""
        if not _SWEEP.fullmatch(name):
            return None
        try:
            manifest = dict(json.loads((self._sweeps / f"{name}.json").read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return None
        for cell in manifest.get("cells", []):
            cell.pop("path", None)
        return {**manifest, "name": name}

    def cell(self, key: str) -> Path | None:
        path = self._cells.path(key) if _KEY.fullmatch(key) else None
        return path if path is not None and path.is_file() else None

    def tile(self, key: str, size: int) -> bytes | None:
        """The cell as a WebP of at most ``size`` pixels a side; never enlarged.

        Raises:
            ValueError: the file is damaged.
        """
        path = self.cell(key)
        if path is None:
            return None
        try:
            with Image.open(path) as image:
                picture = image.convert("RGB")
        except (OSError, SyntaxError, ValueError):
            raise ValueError("The cell's file is damaged; queue the sweep again.") from None
        picture.thumbnail((min(size, _LARGEST_TILE),) * 2, Image.Resampling.LANCZOS)
        data = io.BytesIO()
        picture.save(data, "webp", quality=85, method=0)
        return data.getvalue()

    def graph(self, key: str) -> dict[str, Any] | None:
        """The plain graph that a cell's file carries, in API format.

        Raises:
            ValueError: the file is damaged or carries none.
        """
        path = self.cell(key)
        if path is None:
            return None
        try:
            with Image.open(path) as image:
                return dict(json.loads(image.info[GRAPH]))
        except (OSError, SyntaxError, ValueError, KeyError, TypeError):
            raise ValueError("The cell's file is damaged or carries no graph; queue the sweep again.") from None
