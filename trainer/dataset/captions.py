"""Captions: the text beside an image."""

from __future__ import annotations

import re
from dataclasses import dataclass

_LONGEST = 1 << 20  # bytes; a caption file larger than this is something else
_BYTE_ORDER_MARKS = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True)
class Caption:
    """The first line of a caption file, stripped (kohya), and the encoding it was read in.

    more: its further lines, stripped, without empty ones; wildcards draw among all of them.
    """

    text: str
    encoding: str
    more: tuple[str, ...] = ()

    @property
    def is_utf8(self) -> bool:
        """Whether the file was what other trainers can read too."""
        return self.encoding == "utf-8"


def read_caption(path: str) -> Caption:
    """The caption in a text file, whatever its encoding: UTF-8, UTF-16 with a mark, cp1252 or latin-1.

    Raises OSError.
    """
    with open(path, "rb") as file:
        text, encoding = decode(file.read(_LONGEST))
    first, *more = _lines(text)
    return Caption(first, encoding, tuple(filter(None, more)))


def first_line(text: str) -> str:
    """What of a caption file's text is the caption."""
    return _lines(text)[0]


def _lines(text: str) -> list[str]:
    return [line.strip() for line in re.split(r"[\r\n]", text.replace("\0", ""))]


def decode(data: bytes) -> tuple[str, str]:
    """The text in a file's bytes, and the encoding that they are in."""
    if data.startswith(_BYTE_ORDER_MARKS):
        return data.decode("utf-16", errors="replace"), "utf-16"
    for encoding in ("utf-8-sig", "cp1252"):
        try:
            return data.decode(encoding), encoding.removesuffix("-sig")
        except UnicodeDecodeError:
            continue
    return data.decode("latin-1"), "latin-1"
