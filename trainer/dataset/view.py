"""A dataset as people look through it: images with captions, buckets, and what is wrong, as plain values for JSON."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from .buckets import BucketSettings, place
from .report import HEADINGS
from .samples import Dataset, Problem, Sample

Json = dict[str, Any]


def dataset_view(dataset: Dataset, extension: str = ".txt") -> Json:
    """Totals, images in the dataset's order, and the problems of files that are none of them.

    extension: that of the caption files, whose problems are told with their images.
    """
    told: dict[str, list[str]] = defaultdict(list)
    for problem in dataset.problems:
        told[problem.path].append(_told(problem))
    images = [_image(dataset, sample, told, extension) for sample in dataset.samples]
    shown = {name for image in images for name in _names(image["name"], extension)}
    others = [{"name": p.path, "told": _told(p)} for p in dataset.problems if p.path not in shown]
    return {"totals": _totals(dataset), "images": images, "others": others}


def _image(dataset: Dataset, sample: Sample, told: dict[str, list[str]], extension: str) -> Json:
    name = dataset.name_of(sample)
    entry: Json = {
        "name": name,
        "caption": plain_text(sample.caption),
        "size": [sample.width, sample.height],
        "repeats": sample.repeats,
        "version": sample.content_hash[:16],
    }
    if problems := [line for each in _names(name, extension) for line in told.get(each, [])]:
        entry["problems"] = problems
    if sample.regularisation:
        entry["regularisation"] = True
    return entry


def _names(name: str, extension: str) -> tuple[str, str]:
    """The image and its caption file."""
    return name, name.rpartition(".")[0] + extension


def _told(problem: Problem) -> str:
    return f"{HEADINGS.get(problem.kind, problem.kind)}: {problem.detail}"


def _totals(dataset: Dataset) -> Json:
    return {
        "images": dataset.num_images,
        "with_repeats": dataset.num_images_with_repeats,
        "captioned": sum(bool(sample.caption) for sample in dataset.samples),
        "masks": sum(bool(sample.mask_hash) for sample in dataset.samples),
        "regularisation": sum(sample.regularisation for sample in dataset.samples),
        "problems": len(dataset.problems),
    }


def buckets_view(samples: Iterable[Sample], settings: BucketSettings) -> Json:
    """The buckets, the largest share of an epoch first, and the share of pixels that cropping takes from each.

    lost: per cent. enlarged: how many images are made larger than they are.
    """
    found: dict[tuple[int, int], list[int]] = {}
    for sample in samples:
        placement = place(sample.width, sample.height, settings)
        (width, height), (wide, high) = placement.resized, placement.bucket
        grown = width > sample.width or height > sample.height
        counted = (1, sample.repeats, sample.repeats * width * height, sample.repeats * wide * high, int(grown))
        before = found.get(placement.bucket, [0] * len(counted))
        found[placement.bucket] = [old + new for old, new in zip(before, counted, strict=True)]
    rows = sorted(found.items(), key=lambda row: (-row[1][1], row[0]))
    whole = [sum(column) for column in zip(*found.values(), strict=True)] if found else [0] * 5
    return {"buckets": [{"size": list(size), **_counts(counts)} for size, counts in rows], "all": _counts(whole)}


def _counts(counts: list[int]) -> Json:
    images, repeats, resized, kept, enlarged = counts
    lost = round(100 * (1 - kept / resized), 2) if resized else 0.0
    return {"images": images, "with_repeats": repeats, "lost": lost, "enlarged": enlarged}


def plain_text(text: str) -> str:
    """Half characters, which no JSON for a browser can hold, become question marks."""
    return text.encode("utf-8", "replace").decode()
