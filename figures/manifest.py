"""What a figure shows, for programs: every cell's parameters and records as JSON and CSV."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .axes import Axis
from .cells import Index, cells
from .files import replacing

FORMAT = "mjesec-figure/1"


def figure_manifest(
    axes: Sequence[Axis], records: Mapping[Index, Mapping[str, Any]] | None = None, **about: Any
) -> dict[str, Any]:
    """The axes, every cell with its values and record, and whatever else is told `about` the run.

    records: by cell index, e.g. file, sha256, seconds, error. about: e.g. versions, model hash, prompt, seed.
    """
    found = records or {}
    return {
        "format": FORMAT,
        **about,
        "axes": [
            {
                "parameter": axis.parameter,
                "label": axis.label,
                "values": list(axis.values),
                "texts": list(axis.texts),
            }
            for axis in axes
        ],
        "cells": [
            {"index": list(cell.index), "values": dict(cell.values), **found.get(cell.index, {})}
            for cell in cells(axes)
        ],
    }


def write_manifest_json(manifest: Mapping[str, Any], path: Path) -> None:
    """Write `manifest` as UTF-8 JSON that any parser reads: numbers that are not finite become null."""
    text = json.dumps(_plain(manifest), ensure_ascii=False, indent=2, allow_nan=False)
    with replacing(path) as file:
        file.write(f"{text}\n".encode())


def write_manifest_csv(manifest: Mapping[str, Any], path: Path) -> None:
    """Write one line a cell: its number, the axes' values, then its record.

    UTF-8 with the mark by which spreadsheets know it.
    """
    rows = manifest["cells"]
    parameters = [axis["parameter"] for axis in manifest["axes"]]
    extra = list(dict.fromkeys(name for row in rows for name in row if name not in ("index", "values")))
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["cell", *parameters, *extra])
    for number, row in enumerate(rows, 1):
        values = [row["values"].get(name, "") for name in parameters]
        writer.writerow([number, *values, *(_field(row.get(name)) for name in extra)])
    with replacing(path) as file:
        file.write(text.getvalue().encode("utf-8-sig"))


def _field(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, (Mapping, list, tuple)):
        return json.dumps(_plain(value), ensure_ascii=False)
    return value


def _plain(value: Any) -> Any:
    """JSON's own types only."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)
