"""Several datasets as one: more folders, and images that only keep what the base knows already."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from ..errors import DatasetError
from .samples import Dataset, Sample


def combine(datasets: Sequence[Dataset], regularisation: Dataset | None = None) -> Dataset:
    """All samples in the order given; those of ``regularisation`` marked, and repeated until an epoch shows at least
    as many of them as of the others (sd-scripts' DreamBoothDataset). Problems are kept.

    Raises DatasetError when there is nothing to combine.
    """
    if not datasets:
        raise DatasetError("There is no dataset to combine; connect at least one.")
    samples = tuple(sample for dataset in datasets for sample in dataset.samples)
    parts = list(datasets)
    if regularisation is not None:
        samples += _balanced(regularisation.samples, sum(s.repeats for s in samples if not s.regularisation))
        parts.append(regularisation)
    folder = _common([dataset.folder for dataset in parts])
    problems = tuple(
        replace(problem, path=_renamed(problem.path, dataset.folder, folder))
        for dataset in parts
        for problem in dataset.problems
    )
    return Dataset(samples, problems, folder)


def _balanced(samples: Sequence[Sample], wanted: int) -> tuple[Sample, ...]:
    """At least as many showings as ``wanted``: the first images get one repeat more, or the last ones are left out.

    An image comes with all of its repeats, so that the last one may pass what is wanted.
    """
    repeats = [0] * len(samples)
    shown, place = 0, 0
    while shown < wanted and samples:
        index = place % len(samples)
        more = samples[index].repeats if place < len(samples) else 1
        repeats[index] += more
        shown, place = shown + more, place + 1
    return tuple(
        replace(sample, repeats=count, regularisation=True)
        for sample, count in zip(samples, repeats, strict=True)
        if count
    )


def _common(folders: Sequence[str]) -> str:
    try:
        return os.path.commonpath(folders)
    except ValueError:  # on different drives
        return folders[0]


def _renamed(path: str, folder: str, common: str) -> str:
    return os.path.normpath(os.path.join(os.path.relpath(folder, common), path)).replace(os.sep, "/")
