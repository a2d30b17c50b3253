"""The datasets that somebody is looking at: scanned beside other work, and kept by an id."""

from __future__ import annotations

import hashlib
import io
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Any

from ..errors import Cancelled, DatasetError, ImageError
from .buckets import BucketSettings
from .caption_editor import CaptionEditor, CaptionFile
from .caption_tables import CaptionTable
from .captions import first_line
from .images import load_thumbnail
from .samples import Dataset, Problem
from .view import buckets_view, dataset_view, plain_text

CAPTION_KINDS = ("caption_missing", "caption_empty", "caption_encoding")
MADE_BY_A_NODE = "These images come from nodes; change their captions there."
_LARGEST = 2048
_KEPT = 32
_PATIENCE = 20.0  # seconds after which nobody waits for a scan any more

OnProgress = Callable[[int, int], None]


class OpenDataset:
    """One dataset with whatever its captions can be edited by; ``reason`` says why they cannot."""

    def __init__(
        self,
        dataset: Dataset,
        captions: CaptionEditor | None = None,
        table: CaptionTable | None = None,
        reason: str = MADE_BY_A_NODE,
    ) -> None:
        self._names = {dataset.name_of(sample): at for at, sample in enumerate(dataset.samples)}
        self._dataset, self._captions, self._table = dataset, captions, table
        self._reason = reason if captions is None else ""
        # two people, or two tabs of one, may save at once
        self._editing = threading.Lock()
        described = f"{dataset.folder} {dataset.content_hash} {captions and captions.extension}"
        self.id = hashlib.sha256(described.encode("utf-8", "surrogateescape")).hexdigest()[:32]

    def view(self) -> dict[str, Any]:
        extension = self._captions.extension if self._captions else ".txt"
        return {"id": self.id, "read_only": self._reason, **dataset_view(self._dataset, extension)}

    def buckets(self, settings: BucketSettings) -> dict[str, Any]:
        return buckets_view(self._dataset.samples, settings)

    def picture(self, name: str, side: int) -> bytes:
        """An image as a WebP of at most ``side`` pixels a side; never enlarged.

        Raises DatasetError.
        """
        try:
            picture = load_thumbnail(self._dataset.samples[self._at(name)].path, min(side, _LARGEST))
        except ImageError as error:
            raise DatasetError(f"'{plain_text(name)}' cannot be shown: {error.reason}.") from error
        data = io.BytesIO()
        picture.save(data, "webp", quality=82, method=0)
        return data.getvalue()

    def caption(self, name: str) -> dict[str, Any]:
        """A caption to edit, or only to read; ``reason`` says why.

        Raises DatasetError.
        """
        sample = self._dataset.samples[self._at(name)]
        reason = self._why_not(name)
        if reason or self._captions is None:
            told = {"file": "", "text": plain_text(sample.caption), "version": "", "earlier": []}
            return {**told, "used": plain_text(sample.caption), "reason": reason}
        return {**_as_json(self._captions.read(name)), "used": plain_text(sample.caption), "reason": ""}

    def edit(self, name: str, text: str, version: str) -> dict[str, Any]:
        """Writes a caption; ``changed``: all images that it belongs to, and ``totals``, as in the view.

        Raises:
            CaptionConflict: it is no longer the text that ``version`` names.
            DatasetError: it cannot be written.
        """
        self._at(name)
        reason = self._why_not(name)
        if reason or self._captions is None:
            raise DatasetError(reason)
        same = [other for other in self._names if other.rpartition(".")[0] == name.rpartition(".")[0]]
        with self._editing:
            written = self._captions.write(name, text, version)
            self._dataset = self._with_caption(same, written)
            view = self.view()
        changed = [image for image in view["images"] if image["name"] in same]
        told = {**_as_json(written), "used": first_line(written.text), "reason": ""}
        return {**told, "changed": changed, "totals": view["totals"]}

    def _with_caption(self, names: list[str], written: CaptionFile) -> Dataset:
        """The dataset after a caption of these images was written."""
        used = first_line(written.text)
        samples = list(self._dataset.samples)
        for name in names:
            samples[self._names[name]] = replace(samples[self._names[name]], caption=used)
        gone = {(file, kind) for file in (*names, written.file) for kind in CAPTION_KINDS}
        problems = [problem for problem in self._dataset.problems if (problem.path, problem.kind) not in gone]
        if not used:
            problems.append(Problem(written.file, "caption_empty", "its first line is empty"))
        return replace(self._dataset, samples=tuple(samples), problems=tuple(problems))

    def _at(self, name: str) -> int:
        if name not in self._names:
            raise DatasetError(f"There is no image '{plain_text(name)}' in this dataset; open the preview anew.")
        return self._names[name]

    def _why_not(self, name: str) -> str:
        path = self._dataset.samples[self._at(name)].path
        if self._table is not None and self._table.has(name, path):
            return "This caption stands in the caption table; change it there."
        return self._reason


def _as_json(caption: CaptionFile) -> dict[str, Any]:
    return {
        "file": plain_text(caption.file),
        "text": caption.text,
        "version": caption.version,
        "earlier": list(caption.earlier[:50]),
    }


class _Scan:
    """A scan in a thread of its own. ``progress``: files read and files in all."""

    def __init__(self, scan: Callable[[OnProgress], OpenDataset]) -> None:
        self.progress = (0, 0)
        self.asked = time.monotonic()
        self.opened: OpenDataset | None = None
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._run, args=(scan,), name="mjesec dataset scan", daemon=True)
        self._thread.start()

    def _run(self, scan: Callable[[OnProgress], OpenDataset]) -> None:
        try:
            self.opened = scan(self._on_progress)
        except Exception as error:
            self.error = error

    def _on_progress(self, done: int, of: int) -> None:
        self.progress = (done, of)
        if time.monotonic() - self.asked > _PATIENCE:
            raise Cancelled

    def wait(self, seconds: float) -> bool:
        """Whether it has ended within that time."""
        self.asked = time.monotonic()
        self._thread.join(seconds)
        return not self._thread.is_alive()


class OpenDatasets:
    """Datasets by id, the last ones that were opened."""

    def __init__(self) -> None:
        self._opened: OrderedDict[str, OpenDataset] = OrderedDict()
        self._scans: dict[Hashable, _Scan] = {}
        self._lock = threading.Lock()

    def keep(self, opened: OpenDataset) -> str:
        """Remember a dataset; returns its id."""
        with self._lock:
            self._opened[opened.id] = opened
            self._opened.move_to_end(opened.id)
            while len(self._opened) > _KEPT:
                self._opened.popitem(last=False)
        return opened.id

    def find(self, wanted: str) -> OpenDataset | None:
        with self._lock:
            return self._opened.get(wanted)

    def scan(
        self, key: Hashable, scan: Callable[[OnProgress], OpenDataset], seconds: float = 1.0
    ) -> OpenDataset | tuple[int, int]:
        """What ``scan`` gives, or after ``seconds`` how far it is: ask again with the same key.

        Raises what ``scan`` raises.
        """
        with self._lock:
            running = self._scans.get(key)
            if running is None:
                running = self._scans[key] = _Scan(scan)
        if not running.wait(seconds):
            return running.progress
        with self._lock:
            if self._scans.get(key) is running:
                del self._scans[key]
        if isinstance(running.error, Cancelled):
            return 0, 0
        if running.error is not None:
            raise running.error
        assert running.opened is not None  # noqa: S101 - it has ended without an error
        self.keep(running.opened)
        return running.opened
