"""A finished run under another name: copies of its file and of those that it made on the way."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..lora.file import copy_lora
from .log import read_records
from .outputs import Place, beside_name, files_on_the_way, run_of

_MOST_NAMED = 5


def copy_run(place: Place, run: str, keepsakes: Mapping[str, str]) -> str:
    """Copy the twin of a place, and the files of the same run beside it; what of them there is now, as a clause.

    keepsakes: as ``extra`` of ``copy_lora``.

    Raises:
        NameTaken: another run has written a file of that name in the meantime.
        LoraFileError: a file cannot be read or written.
    """
    twin, path = place.twin, place.outputs.lora
    assert twin is not None  # noqa: S101 - asked before

    def own(file: Path) -> bool:
        return run_of(file) == run

    beside = [file for file in files_on_the_way(twin) if own(file)]
    for file in beside:
        copy_lora(file, _renamed(file, twin, path), keepsakes, replaceable=own)
    # last: the file itself says that the run is finished
    copy_lora(twin, path, keepsakes, replaceable=own)
    count = sum(file != place.outputs.mean_of(twin) for file in beside)
    clause = f"{path.name} is a copy of it"
    if count:
        files = "1 file from on the way is" if count == 1 else f"{count} files from on the way are"
        clause += f", and {files} copied too"
    if gone := [name for name in _saved(place, twin) if not _renamed(twin.with_name(name), twin, path).exists()]:
        more = f" and {len(gone) - _MOST_NAMED} more" if len(gone) > _MOST_NAMED else ""
        clause += f"; not there any more: {', '.join(gone[:_MOST_NAMED])}{more}"
    return f"{clause}."


def _renamed(file: Path, twin: Path, path: Path) -> Path:
    return path.with_name(path.stem + file.name[len(twin.stem) :])


def _saved(place: Place, twin: Path) -> list[str]:
    """Names of the files beside a twin that its run wrote on the way, as its log has them."""
    names = (record.get("file") for record in read_records(place.outputs.log) if record["event"] == "saved")
    # a log may be written by anybody
    return sorted({name for name in names if isinstance(name, str) and beside_name(name, twin)})
