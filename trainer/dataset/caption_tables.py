"""Captions of many images in one file: JSON as kohya's tools write it, or JSON lines as published data sets do."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import DatasetError

_NAMES = ("file_name", "image", "image_path", "path")
_TEXTS = ("caption", "text", "prompt")
_LONGEST = 1 << 28  # bytes


class CaptionTable:
    """Captions by an image's path within the folder, its file name or its name without ending, in that order."""

    def __init__(self, captions: Mapping[str, str]) -> None:
        self._captions = {name.replace("\\", "/"): text for name, text in captions.items()}

    def __len__(self) -> int:
        return len(self._captions)

    def has(self, name: str, path: str) -> bool:
        """Whether the table has a caption for an image, as `find` would find it."""
        return self.find(name, Path(path)) is not None

    def find(self, name: str, path: Path) -> str | None:
        """``name``: path within the folder, with forward slashes; ``path``: of the image."""
        without_ending = name.rpartition(".")[0]
        for key in (name, without_ending, path.as_posix(), path.with_suffix("").as_posix(), path.name, path.stem):
            if key in self._captions:
                return self._captions[key]
        return None


def read_caption_table(path: Path) -> CaptionTable:
    """One object for each line of a ``.jsonl`` file (``file_name`` and ``text`` or ``caption``), or a JSON file: a list
    of such objects, or an object of captions or ``{"caption": …, "tags": …}`` by image (sd-scripts' in_json).

    Raises DatasetError.
    """
    try:
        if path.stat().st_size > _LONGEST:
            raise DatasetError(f"The caption file '{path}' is larger than {_LONGEST >> 20} MiB; split it.")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(
            f"The caption file '{path}' cannot be read ({error}); correct its name or content."
        ) from None
    try:
        if path.suffix.lower() == ".jsonl":
            rows: Any = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"The caption file '{path}' is no valid JSON ({error}); correct it.") from None
    entries = rows.items() if isinstance(rows, dict) else _named(rows, path)
    return CaptionTable({str(name): found for name, entry in entries if (found := _caption(entry)) is not None})


def _named(rows: Any, path: Path) -> Iterable[tuple[str, Any]]:
    if not isinstance(rows, list):
        raise DatasetError(f"The caption file '{path}' holds neither a list nor an object; correct it.")
    for number, row in enumerate(rows, 1):
        name = next((row[key] for key in _NAMES if key in row), None) if isinstance(row, dict) else None
        if not isinstance(name, str):
            raise DatasetError(f"Entry {number} of the caption file '{path}' has no 'file_name'; add it.")
        yield name, row


def _caption(entry: Any) -> str | None:
    if isinstance(entry, str):
        return " ".join(entry.split())
    if not isinstance(entry, dict):
        return None
    text = next((entry[key] for key in _TEXTS if isinstance(entry.get(key), str)), None)
    tags = entry.get("tags")
    tags = ", ".join(map(str, tags)) if isinstance(tags, list) else tags if isinstance(tags, str) else None
    told = [" ".join(part.split()) for part in (text, tags) if part]
    return ", ".join(told) if told else text
