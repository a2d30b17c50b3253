"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A binary file that takes the place of `path` once the block ends without an error.

    Until then an earlier file of that name stays as it is. Makes missing folders. Raises OSError with a
    sentence that names the file if it cannot be written.
    """
    path = Path(path)
    unfinished = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(unfinished, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except OSError as error:
        if error.filename is not None and Path(error.filename) not in (unfinished, path, *path.parents):
            raise  # another file's fault, e.g. an image that was to be read
        raise _refused(path, error) from error
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)


@contextmanager
def free_stem(folder: Path, name: str, number: int) -> Iterator[str]:
    """The first of `name_00001` and so on, from `number`, with which no file of the folder begins.

    Nobody else gets it until the block ends, in whichever process. Raises OSError with a sentence that names the
    file if the folder cannot be written.
    """
    while not _claim(folder, stem := f"{name}_{number:05d}"):
        number += 1
    try:
        yield stem
    finally:
        with suppress(OSError):
            _mark(folder, stem).unlink()


def _mark(folder: Path, stem: str) -> Path:
    """A file that stands for a stem in use; ComfyUI counts it among those that have their number."""
    return folder / f"{stem}_.part"


def _claim(folder: Path, stem: str) -> bool:
    mark = _mark(folder, stem)
    try:
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    except OSError as error:
        raise _refused(mark, error) from error
    # another process may have had it, and be done with it, since the number was looked up
    if any(file.startswith((f"{stem}_", f"{stem}.")) and file != mark.name for file in os.listdir(folder)):
        mark.unlink()
        return False
    return True


def _refused(path: Path, error: OSError) -> OSError:
    reason = error.strerror or str(error)
    return OSError(f'Could not write "{path}" ({reason}); check the folder and its free space.')
