"""Finished cells on disk, found again by the hash of everything that they depend on.

A cell is one PNG, written whole or not at all; its own text entry tells what it is, what it took, and its pixels' hash.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ...figures.files import replacing

RECORD = "mjesec"
GRAPH = "prompt"
_MOST_RATES = 32
_STALE_S = 3600.0


class CannotKeep(OSError):
    """The store's folder takes no more files: nothing that is computed now could be kept."""


@dataclass(frozen=True)
class Kept:
    """A cell on disk: its file, the hash of its pixels, and the seconds that it took when it was computed.

    check: how far cells of its kind are from exact ones, where that was measured. left_out: where its LoRA fits in
    part, how many modules matched and which did not.
    """

    path: Path
    pixels: str
    seconds: float
    check: Mapping[str, object] | None = None
    left_out: str = ""


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
        """The cell of that key; a file that is damaged, also in its pixels, or of another key counts as none."""
        path = self.path(key)
        # Pillow gives OSError and SyntaxError for broken files
        with suppress(OSError, SyntaxError, ValueError, KeyError, TypeError), Image.open(path) as image:
            record = json.loads(image.info[RECORD])
            # reads the file to its end and compares the check sums, without unpacking the pixels
            image.verify()
            if record["key"] == key:
                told = record.get("check"), str(record.get("left_out", ""))
                return Kept(path, str(record["pixels"]), float(record["seconds"]), *told)
        return None

    def probe(self) -> None:
        """Write a file and remove it, and remove what killed processes left half-written.

        Raises:
            CannotKeep: names the folder.
        """
        trial = self.folder / ".probe"
        try:
            with replacing(trial) as file:
                file.write(b"\0" * 4096)
            trial.unlink(missing_ok=True)
        except OSError as error:
            raise CannotKeep(str(error)) from error
        for left in self.folder.glob("*/.*.part"):
            # one that another process writes now is younger
            with suppress(OSError):
                if time.time() - left.stat().st_mtime > _STALE_S:
                    left.unlink()

    def keep(
        self,
        key: str,
        image: Image.Image,
        seconds: float,
        parameters: Mapping[str, object],
        graph: Mapping[str, object] | None = None,
        check: Mapping[str, object] | None = None,
        left_out: str = "",
    ) -> Kept:
        """Write a cell, ``parameters`` into its record; ``graph`` makes it again when the file is opened in the editor.

        Raises:
            CannotKeep: names the file that cannot be written.
        """
        kept = Kept(self.path(key), pixels_hash(image), seconds, check, left_out)
        record = {"key": key, "pixels": kept.pixels, "seconds": seconds, "parameters": dict(parameters)}
        if check is not None:
            record["check"] = dict(check)
        if left_out:
            record["left_out"] = left_out
        notes = PngInfo()
        notes.add_itxt(RECORD, json.dumps(record, ensure_ascii=False, default=str))
        if graph is not None:
            # under this name the editor looks for it when the file is dropped there
            notes.add_text(GRAPH, json.dumps(graph))
        try:
            with replacing(kept.path) as file:
                image.save(file, "png", pnginfo=notes, compress_level=4)
        except OSError as error:
            raise CannotKeep(str(error)) from error
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
