"""A folder of photo-like Moons with captions: a dataset that needs no download. numpy and Pillow only."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DatasetError, SettingsError
from ..files import write_atomically
from .camera import VERSION, render_moon

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["render_moon", "render_moons"]

_MANIFEST = ".moons.json"


def render_moons(
    folder: str | os.PathLike[str],
    count: int,
    size: int,
    seed: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Fills a folder with `moon_0000.png`, `moon_0000.txt` and so on; picture i has the seed `seed` + i.

    A folder that already holds exactly this set is left as it is; one that holds another set of Moons is
    rewritten. Every file appears whole or not at all. on_progress: called with (pictures done, count); an
    exception it raises ends the work, and the next call does all of it again.

    Several processes may fill a folder with the same set at once.

    Raises SettingsError for numbers that cannot work, DatasetError where a file in the way is not ours, LoraFileError
    where one cannot be written.
    """
    if not 1 <= count <= 10_000:
        raise SettingsError(f"The number of Moons {count} must be from 1 to 10000.")
    root = Path(folder)
    wanted = {"version": VERSION, "count": count, "size": size, "seed": seed}
    present = _read_manifest(root)
    if present is not None and _is_complete(root, wanted, present):
        return
    first_picture = render_moon(size, seed)  # refuses impossible numbers before anything is written
    _clear(root, wanted)
    _write(root / _MANIFEST, json.dumps(wanted | {"files": {}}).encode())
    files: dict[str, str] = {}
    for index in range(count):
        picture, caption = render_moon(size, seed + index) if index else first_picture
        for name, data in zip(_names(index), (_png(picture), caption.encode()), strict=True):
            _write(root / name, data)
            files[name] = hashlib.sha256(data).hexdigest()
        if on_progress is not None:
            on_progress(index + 1, count)
    _write(root / _MANIFEST, json.dumps(wanted | {"files": files}, indent=1).encode())


def _names(index: int) -> tuple[str, str]:
    return f"moon_{index:04d}.png", f"moon_{index:04d}.txt"


def _read_manifest(root: Path) -> dict[str, object] | None:
    try:
        manifest = json.loads((root / _MANIFEST).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) else None


def _is_complete(root: Path, wanted: dict[str, int], present: dict[str, object]) -> bool:
    files = present.get("files")
    if not isinstance(files, dict) or len(files) != 2 * wanted["count"]:
        return False
    if not _is_of(wanted, present):
        return False
    on_disk = {path.name: path for path in _moon_files(root)}
    return on_disk.keys() == files.keys() and all(
        hashlib.sha256(path.read_bytes()).hexdigest() == files[name] for name, path in on_disk.items()
    )


def _is_of(wanted: dict[str, int], present: dict[str, object]) -> bool:
    return all(present.get(key) == value for key, value in wanted.items())


def _moon_files(root: Path) -> list[Path]:
    return [path for path in root.glob("moon_*") if re.fullmatch(r"moon_\d{4}\.(png|txt)", path.name)]


def _clear(root: Path, wanted: dict[str, int]) -> None:
    """Removes the files of an earlier set; without a manifest they are somebody else's.

    Those of the set that is wanted stay: another process may be rendering the very same.
    """
    # the manifest after the files, as that other process begins with it
    files = _moon_files(root)
    present = _read_manifest(root)
    if files and present is None:
        raise DatasetError(
            f"The folder '{root}' holds '{files[0].name}' of another origin; choose a folder of its own."
        )
    same = present is not None and _is_of(wanted, present)
    kept = {name for index in range(wanted["count"]) for name in _names(index)} if same else set()
    for path in files:
        if path.name not in kept:
            path.unlink(missing_ok=True)


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _write(path: Path, data: bytes) -> None:
    write_atomically(path, lambda scratch: scratch.write_bytes(data))
