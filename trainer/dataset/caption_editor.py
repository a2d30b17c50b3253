"""Captions of a dataset folder as somebody edits them: read whole, written whole, and the former text kept.

Every text that an edit replaces goes into one file of the folder, `.mjesec_captions.jsonl`, before the edit is made.
Its name begins with a dot, so that it is neither an image nor a caption to anybody who scans the folder.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import DatasetError, LoraFileError
from ..files import write_atomically
from .captions import decode
from .images import IMAGE_EXTENSIONS
from .scan import NOT_WORTH_A_WORD

HISTORY = ".mjesec_captions.jsonl"
LONGEST = 1 << 20  # bytes; more is no caption

_EXTENSION = re.compile(r"\.[^./\\\0]{1,32}")
_lock = threading.Lock()


class CaptionConflict(DatasetError):
    """The file is no longer what the editor was given."""


@dataclass(frozen=True)
class CaptionFile:
    """A caption as it lies on disk. file: its path within the folder. version: names these very bytes, empty for none.

    earlier: texts that edits have replaced, the newest first, each once and none that is the present one.
    """

    file: str
    text: str
    version: str
    earlier: tuple[str, ...]


class CaptionEditor:
    """The captions in one folder, in files of the images' names with the given ending."""

    def __init__(self, folder: Path, extension: str = ".txt") -> None:
        if not _EXTENSION.fullmatch(extension) or extension.lower() in (*IMAGE_EXTENSIONS, *NOT_WORTH_A_WORD):
            raise DatasetError(f"Files ending in '{extension}' are no captions; choose an ending such as '.txt'.")
        self.root = Path(os.path.realpath(folder))
        self.extension = extension

    def read(self, image: str) -> CaptionFile:
        """The caption of an image, named by its path within the folder.

        Raises DatasetError.
        """
        path = self._caption_path(image)
        data = _bytes_of(path)
        text = "" if data is None else decode(data)[0]
        name = path.relative_to(self.root).as_posix()
        earlier = tuple(dict.fromkeys(old for old in self._history(name) if old != text))
        return CaptionFile(name, text, _version(data), earlier)

    def write(self, image: str, text: str, version: str) -> CaptionFile:
        """Put ``text`` in the place of the caption that ``version`` names; the former text is kept.

        Raises:
            CaptionConflict: the file has been changed, made or removed since it was read.
            DatasetError: it cannot be written; the former text is as it was.
        """
        path, data = self._caption_path(image), _encoded(text)
        with _lock:
            before = _bytes_of(path)
            if _version(before) != version:
                raise CaptionConflict(f"'{path.name}' has changed on disk since it was opened; look at both texts.")
            if data != before:
                self._keep(path, before)
                _write(path, data)
        return self.read(image)

    def _caption_path(self, image: str) -> Path:
        path = image_path(self.root, image).with_suffix(self.extension)
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise DatasetError(f"'{path.name}' is a link or no plain file; edit it where it lies.")
        return path

    def _keep(self, path: Path, data: bytes | None) -> None:
        """Append what is about to be replaced; it is on the disk before this returns."""
        text, encoding = ("", "none") if data is None else decode(data)
        entry = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "file": path.relative_to(self.root).as_posix(),
            "text": text,
            **({"existed": False} if data is None else {}),
            # another encoding may not come back from text as the same bytes
            **({"base64": base64.b64encode(data).decode()} if data is not None and encoding != "utf-8" else {}),
        }
        line = json.dumps(entry, ensure_ascii=True) + "\n"
        try:
            handle = os.open(self._history_path(), os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                # a line that a crash cut off must not take this one with it
                _append(handle, (b"" if _ends_a_line(handle) else b"\n") + line.encode())
            finally:
                os.close(handle)
        except OSError as error:
            raise DatasetError(
                f"The former caption could not be kept in '{HISTORY}' ({error.strerror}), so nothing was changed; make "
                "room in the dataset's folder or allow writing there."
            ) from error

    def _history_path(self) -> Path:
        path = self.root / HISTORY
        if path.is_symlink():
            raise DatasetError(f"'{HISTORY}' in the dataset's folder is a link; remove it.")
        return path

    def _history(self, name: str) -> Iterator[str]:
        """Former texts of a file, the newest first. A line that a crash cut off is no text."""
        with contextlib.suppress(OSError):
            for line in reversed(self._history_path().read_text(encoding="utf-8", errors="replace").splitlines()):
                with contextlib.suppress(ValueError, RecursionError):
                    entry = json.loads(line)
                    if isinstance(entry, dict) and entry.get("file") == name and isinstance(entry.get("text"), str):
                        yield entry["text"]


def image_path(root: Path, image: str) -> Path:
    """The image of a dataset's folder that ``image`` names: ``moon.png`` or ``10_moon/moon.png``.

    Raises DatasetError for whatever leads elsewhere, also through a link.
    """
    root = Path(os.path.realpath(root))
    parts = image.split("/")
    plain = all(part and not part.startswith(".") and "\0" not in part and Path(part).name == part for part in parts)
    if plain and len(parts) <= 2 and image.lower().endswith(IMAGE_EXTENSIONS):
        path = root.joinpath(*parts)
        with contextlib.suppress(OSError, ValueError):
            inside = Path(os.path.realpath(path)).is_relative_to(root)
            if inside and Path(os.path.realpath(path.parent)).is_relative_to(root) and path.is_file():
                return path
    raise DatasetError(f"There is no image '{image}' in the dataset's folder; open the preview anew.")


def _ends_a_line(handle: int) -> bool:
    if not os.lseek(handle, 0, os.SEEK_END):
        return True
    os.lseek(handle, -1, os.SEEK_END)
    return os.read(handle, 1) == b"\n"


def _append(handle: int, data: bytes) -> None:
    """Write all of it and flush it to the disk, or leave the file as it was."""
    before = os.lseek(handle, 0, os.SEEK_END)
    try:
        # the last that fits on a disk is written without an error
        while data:
            data = data[os.write(handle, data) :]
        os.fsync(handle)
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(handle, before)
        raise


def _bytes_of(path: Path) -> bytes | None:
    try:
        with open(path, "rb") as file:
            data = file.read(LONGEST + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DatasetError(f"'{path.name}' cannot be read ({error.strerror}); mend its permissions.") from error
    if len(data) > LONGEST:
        raise DatasetError(f"'{path.name}' is larger than {LONGEST >> 20} MiB and no caption; edit it elsewhere.")
    return data


def _version(data: bytes | None) -> str:
    return "" if data is None else hashlib.sha256(data).hexdigest()


def _encoded(text: str) -> bytes:
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError:
        raise DatasetError("The caption holds half a character, which no file can; type it anew.") from None
    if len(data) > LONGEST or "\0" in text:
        raise DatasetError(f"A caption is text of at most {LONGEST >> 20} MiB; shorten it.")
    return data


def _write(path: Path, data: bytes) -> None:
    def write(scratch: Path) -> None:
        scratch.write_bytes(data)
        if path.exists():
            shutil.copymode(path, scratch)

    try:
        write_atomically(path, write)
    except LoraFileError as error:
        reason = getattr(error.__cause__, "strerror", None) or "the disk refused"
        raise DatasetError(
            f"'{path.name}' could not be written ({reason}): the former caption is as it was; make room or allow "
            "writing in the dataset's folder."
        ) from error
