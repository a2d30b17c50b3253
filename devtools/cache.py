"""The folder in which environments and hosts are kept: where it lies, its lock, its keys, and what is whole in it."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .base import WINDOWS, Failure, say

# what a system says of a lock that another process holds; Windows says EACCES, or EDEADLK after some tries
HELD_BY_ANOTHER = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK)


def cache_folder(environ: Mapping[str, str], system: str = sys.platform) -> Path:
    """Where environments and hosts are kept: MJESEC_CACHE, else where the system keeps caches."""
    if environ.get("MJESEC_CACHE"):
        return Path(environ["MJESEC_CACHE"]).expanduser().absolute()
    if system == "win32":
        local = environ.get("LOCALAPPDATA")
        return (Path(local) if local else Path.home() / "AppData" / "Local") / "mjesec"
    if system == "darwin":
        return Path.home() / "Library" / "Caches" / "mjesec"
    xdg = environ.get("XDG_CACHE_HOME")
    return (Path(xdg) if xdg else Path.home() / ".cache") / "mjesec"


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock file `path`. The system drops the lock with the process, so none is ever left behind.

    Raises Failure where the disk knows no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        waiting = False
        while not try_lock(file.fileno()):
            if not waiting:
                say(f"waiting for another dev.py that is setting up the cache (it holds {path})")
                waiting = True
            time.sleep(0.2)
        try:
            yield
        finally:
            _unlock(file.fileno())


def try_lock(descriptor: int) -> bool:
    """Whether the open lock file is ours now. Raises Failure if it never can be."""
    try:
        if WINDOWS:
            import msvcrt

            os.lseek(descriptor, 0, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in HELD_BY_ANOTHER:
            return False
        raise Failure(
            f"The folder of the cache knows no locks ({error.strerror}), as on some network drives; set MJESEC_CACHE "
            "to a folder on a disk of this machine."
        ) from error
    return True


def _unlock(descriptor: int) -> None:
    if WINDOWS:
        import msvcrt

        os.lseek(descriptor, 0, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)  # type: ignore[attr-defined]
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_UN)


def key_of(*parts: str) -> str:
    """16 hexadecimal digits that change with any of the parts."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def read_stamp(path: Path) -> dict[str, Any] | None:
    """What was written when the thing was finished, or None if it never was."""
    try:
        stamp = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return stamp if isinstance(stamp, dict) else None


def write_stamp(path: Path, key: str, sizes: Mapping[str, int]) -> None:
    """Says that what lies beside `path` is finished: its key, and its files with their sizes in bytes."""
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_text(json.dumps({"key": key, "files": dict(sizes)}), encoding="utf-8")
    os.replace(unfinished, path)


def is_whole(stamp: Path, key: str, folder: Path | None = None) -> bool:
    """Whether what lies in `folder`, else beside the stamp, was finished for `key` and has lost nothing since."""
    written = read_stamp(stamp) or {}
    # earlier versions called a host's key by this name
    if written.get("key", written.get("sha256")) != key:
        return False
    files = written.get("files")
    if not files or not isinstance(files, list | dict):
        return False
    folder = stamp.parent if folder is None else folder
    try:
        # earlier versions kept the names of some files alone
        if isinstance(files, list):
            return all((folder / name).is_file() for name in files)
        return all((folder / name).stat().st_size == size for name, size in files.items())
    except OSError:
        return False


def has_sizes(stamp: Path) -> bool:
    """Whether a stamp keeps the sizes of files, which those of earlier versions do not."""
    return isinstance((read_stamp(stamp) or {}).get("files"), dict)


def sizes_of(files: Iterable[Path], folder: Path) -> dict[str, int]:
    """What a stamp keeps of files: their sizes in bytes by paths relative to `folder`."""
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in sorted(files)}


def remove(folder: Path) -> None:
    """Removes a folder if there is one. Raises Failure if that cannot be done."""
    if not folder.exists():
        return
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise Failure(
            f"The half-made or broken folder '{folder}' cannot be removed ({error.strerror}); "
            "close the programs that use it and delete it by hand."
        ) from error
