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
        reason = error.strerror or str(error)
        raise OSError(f'Could not write "{path}" ({reason}); check the folder and its free space.') from error
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
