"""Finished cells on disk, found again by the hash of everything that they depend on.

A cell is one PNG, written whole or not at all; its own text entry tells what it is, what it took, and its pixels' hash.
"""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..figures.files import replacing

RECORD = "mjesec"
GRAPH = "prompt"
_MOST_RATES = 32


@dataclass(frozen=True)
class Kept:
    """A cell on disk: its file, the hash of its pixels, and the seconds that it took when it was computed."""

    path: Path
    pixels: str
    seconds: float


def pixels_hash(image: Image.Image) -> str:
    """SHA-256 of mode, size and pixels."""
    digest = hashlib.sha256(f"{image.mode} {image.size} ".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()


class CellStore:
    """The cells below a folder, and how fast they were."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.png"

    def find(self, key: str) -> Kept | None:
        """The cell of that key; a file that is damaged or of another key counts as none."""
        path = self.path(key)
        # Pillow gives OSError and SyntaxError for broken files
        with suppress(OSError, SyntaxError, ValueError, KeyError, TypeError), Image.open(path) as image:
            record = json.loads(image.info[RECORD])
            if record["key"] == key:
                return Kept(path, str(record["pixels"]), float(record["seconds"]))
        return None

    def keep(
        self,
        key: str,
        image: Image.Image,
        seconds: float,
        parameters: Mapping[str, object],
        graph: Mapping[str, object] | None = None,
    ) -> Kept:
        """Write a cell, ``parameters`` into its record; ``graph`` makes it again when the file is opened in the editor.

        Raises:
            OSError: names the file that cannot be written.
        """
        kept = Kept(self.path(key), pixels_hash(image), seconds)
        record = {"key": key, "pixels": kept.pixels, "seconds": seconds, "parameters": dict(parameters)}
        notes = PngInfo()
        notes.add_itxt(RECORD, json.dumps(record, ensure_ascii=False, default=str))
        if graph is not None:
            # under this name the editor looks for it when the file is dropped there
            notes.add_text(GRAPH, json.dumps(graph))
        with replacing(kept.path) as file:
            image.save(file, "png", pnginfo=notes, compress_level=4)
        return kept

    def rate(self, kind: str) -> float | None:
        """Median seconds a unit of work of that kind took lately; None where none was measured."""
        measured = self._rates().get(kind)
        return statistics.median(measured) if measured else None

    def note_rates(self, kind: str, measured: list[float]) -> None:
        """Remember measured seconds a unit of work; failing to is no failure of the sweep."""
        if not measured:
            return
        rates = self._rates()
        rates[kind] = (rates.get(kind, []) + measured)[-_MOST_RATES:]
        with suppress(OSError), replacing(self.folder / "rates.json") as file:
            file.write(json.dumps(rates).encode())

    def _rates(self) -> dict[str, list[float]]:
        try:
            rates = json.loads((self.folder / "rates.json").read_text(encoding="utf-8"))
            return {str(kind): [float(rate) for rate in measured] for kind, measured in rates.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}
