"""Images and captions as frozen values: what is trained on, and what is wrong with it."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterable
from dataclasses import dataclass, replace

from ..errors import DatasetError


@dataclass(frozen=True)
class Sample:
    """One image and its caption.

    path: absolute. width, height: pixels, after EXIF rotation. repeats: times an epoch shows it.
    content_hash: SHA-256 (hexadecimal) of the file's bytes, so that an edited image is another sample.
    mask_hash: the same of its mask's file, empty without one. regularisation: it is no example of what is to be
    learnt but of what is to stay, and its loss counts by the settings' prior weight.
    more_captions: further lines of its caption file, among which wildcards draw too. mask: its mask's file, absolute,
    also where that cannot be used; empty without one.
    """

    path: str
    caption: str
    width: int
    height: int
    repeats: int
    content_hash: str
    mask_hash: str = ""
    regularisation: bool = False
    more_captions: tuple[str, ...] = ()
    mask: str = ""

    @property
    def all_captions(self) -> tuple[str, ...]:
        """Every line of the caption file that is not empty."""
        return tuple(filter(None, (self.caption, *self.more_captions)))


@dataclass(frozen=True)
class Problem:
    """Something the user may want to know about one file; `path` is relative to the dataset's folder.

    kind: `broken` (skipped), `outside` (a link out of the folder, skipped), `not_an_image` (skipped),
    `folder_ignored` (skipped), `mixed_folder`, `caption_missing`, `caption_empty`, `caption_encoding`,
    `caption_orphan`, `duplicate`, `animated`, `mask_broken`, `mask_aspect`, `mask_black`, `mask_missing` (others have
    one), `mask_orphan`.
    """

    path: str
    kind: str
    detail: str


@dataclass(frozen=True)
class Dataset:
    """Samples in a fixed order, the problems found with them, and the folder they lie in."""

    samples: tuple[Sample, ...]
    problems: tuple[Problem, ...]
    folder: str

    @property
    def num_images(self) -> int:
        """Images, each counted once."""
        return len(self.samples)

    @property
    def num_images_with_repeats(self) -> int:
        """Images that one epoch shows."""
        return sum(sample.repeats for sample in self.samples)

    @property
    def content_hash(self) -> str:
        """SHA-256 over images, captions, masks, repeats and their order; the same wherever the folder lies."""
        digest = hashlib.sha256()
        for sample in self.samples:
            caption = sample.caption.encode("utf-8", errors="surrogatepass")
            digest.update(f"{sample.content_hash} {sample.repeats} {len(caption)} ".encode() + caption)
            if sample.mask_hash or sample.regularisation:
                digest.update(f" {sample.mask_hash} {sample.regularisation} ".encode())
        return digest.hexdigest()

    def name_of(self, sample: Sample) -> str:
        """The sample's path within the folder, with forward slashes and printable."""
        return printable(os.path.relpath(sample.path, self.folder).replace(os.sep, "/"))

    def problems_of(self, kind: str) -> tuple[Problem, ...]:
        """The problems of one kind, in the order of the files."""
        return tuple(problem for problem in self.problems if problem.kind == kind)

    def without(self, held_out: Iterable[Sample]) -> Dataset:
        """This dataset less some samples, and less every copy of their files."""
        hashes = {sample.content_hash for sample in held_out}
        return replace(self, samples=tuple(s for s in self.samples if s.content_hash not in hashes))

    def split(self, validation_count: int, seed: int) -> tuple[Dataset, Dataset]:
        """(training, validation): `validation_count` different images are drawn by the seed and held out.

        Copies of a held-out image leave the training part too, or the validation would measure memory.
        Regularisation images are never held out.
        Raises DatasetError when nothing would be left to train on.
        """
        first_of = {sample.content_hash: sample for sample in reversed(self.samples) if not sample.regularisation}
        if not 0 <= validation_count < len(first_of):
            raise DatasetError(
                f"{validation_count} images cannot be held out of {len(first_of)} different ones: "
                f"choose a number from 0 to {len(first_of) - 1}."
            )
        drawn = random.Random(seed).sample(sorted(first_of), validation_count)  # noqa: S311 - not a secret
        chosen = tuple(s for s in self.samples if s.content_hash in drawn and first_of[s.content_hash] is s)
        return self.without(chosen), replace(self, samples=chosen, problems=())


def printable(name: str) -> str:
    """A file name that any report can hold: bytes that are no text to the file system become '?'."""
    return name.encode("utf-8", errors="replace").decode()
