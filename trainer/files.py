"""Writing files so that a crash or a full disk leaves either the old file or the new one."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

from .errors import LoraFileError, NameTaken

# seconds
_WAITS = (0.05, 0.1, 0.2, 0.3, 0.4)


def write_atomically(
    path: Path, write: Callable[[Path], None], *, replaceable: Callable[[Path], bool] | None = None
) -> None:
    """Let ``write`` make a temporary file beside ``path``, flush it to the disk and give it that name.

    replaceable: whether an earlier file of that name may be replaced; None where any may.

    Raises:
        NameTaken: an earlier file has the name that is not replaceable, whenever it came to be there.
        LoraFileError: the file could not be written; an earlier one of that name is as it was.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(scratch)
        with open(scratch, "rb+") as file:
            os.fsync(file.fileno())
        if replaceable is None:
            _rename(scratch, path)
        else:
            _claim(scratch, path, replaceable)
        _flush_folder(path.parent)
    except Exception as error:
        # safetensors reports a full disk as its own error type, with the system's words inside
        if isinstance(error, OSError) or type(error).__name__ == "SafetensorError":
            raise LoraFileError(
                f"'{path.name}' could not be written to '{path.parent}' ({_words(error)}): an earlier file of that "
                f"name is untouched; {_cure(error)} and queue again."
            ) from error
        raise
    finally:
        # where even this fails, the first error tells more
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)


def check_writable(folder: Path) -> None:
    """Look whether files could be written to a folder that need not be there yet; nothing is left in it.

    Raises:
        LoraFileError: they could not.
    """
    try:
        place = next(place for place in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(place))
        # not by tempfile: where Windows refuses, that tries two thousand million names
        probe = place / f".mjesec.{os.getpid()}.part"
        os.close(os.open(probe, os.O_CREAT | os.O_WRONLY))
        probe.unlink()
    except OSError as error:
        raise LoraFileError(f"Nothing can be written to '{folder}' ({_words(error)}); {_cure(error)}.") from error


def _cure(error: Exception) -> str:
    full = not isinstance(error, OSError) or error.errno in (errno.ENOSPC, errno.EDQUOT)
    return "make room there" if full else "see that the folder, or what it is a link to, is there and may be written to"


def _claim(scratch: Path, path: Path, replaceable: Callable[[Path], bool]) -> None:
    try:
        _take_free(scratch, path)
    except FileExistsError:
        if not replaceable(path):
            raise NameTaken(f"'{path.name}' has become another's meanwhile and is left alone; queue again.") from None
        _rename(scratch, path)


def _take_free(scratch: Path, path: Path) -> None:
    """Give the file a name that is free: of several who want it at the same time one alone gets it.

    Raises FileExistsError for all others.
    """
    try:
        os.link(scratch, path)
    except FileExistsError:
        raise
    except OSError:
        # a disk without hard links, such as FAT
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
        try:
            _rename(scratch, path)
        except BaseException:
            path.unlink()
            raise


def _rename(scratch: Path, path: Path) -> None:
    """Windows refuses while anybody has the old file open, a virus scanner or a list of models: mostly not for long."""
    for seconds in _WAITS:
        try:
            os.replace(scratch, path)
        except PermissionError:
            time.sleep(seconds)
        else:
            return
    os.replace(scratch, path)


def _flush_folder(folder: Path) -> None:
    """Make a rename outlast a power cut, where the system lets a folder be flushed."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def reason(error: LoraFileError) -> str:
    """Why a file was not written, without a full stop: the system's words where it has some."""
    return _words(error.__cause__ or error).rstrip(".")


def _words(error: BaseException) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)
