"""The order of training: which samples make a batch, and how many epochs a number of steps is.

A plan depends on (seed, epoch) and on nothing that happened before, so a resumed run continues it exactly.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy

from ..errors import SettingsError


def plan_epoch(
    buckets: Sequence[tuple[int, int]], repeats: Sequence[int], batch_size: int, seed: int, epoch: int
) -> list[tuple[int, ...]]:
    """The batches of one epoch, each a tuple of sample indices that share a bucket.

    buckets: the bucket (width, height) of every sample.
    repeats: how often every sample is seen in an epoch.
    seed, epoch: whole numbers from 0 on; the same pair gives the same plan.

    Samples are shuffled within their bucket and batches among each other, as kohya does; the last batch of
    a bucket may be smaller, so that every sample is seen exactly `repeats` times. Raises SettingsError.
    """
    _check(buckets, repeats, batch_size)
    if seed < 0 or epoch < 0:
        raise SettingsError(f"The seed {seed} and the epoch {epoch} must not be negative.")
    generator = numpy.random.Generator(numpy.random.PCG64([seed, epoch]))
    members: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, (bucket, count) in enumerate(zip(buckets, repeats, strict=True)):
        members[bucket] += [index] * count

    batches: list[tuple[int, ...]] = []
    for bucket in sorted(members):
        shuffled = generator.permutation(members[bucket]).tolist()
        batches += [tuple(shuffled[i : i + batch_size]) for i in range(0, len(shuffled), batch_size)]
    return [batches[i] for i in generator.permutation(len(batches))]


def batches_per_epoch(buckets: Sequence[tuple[int, int]], repeats: Sequence[int], batch_size: int) -> int:
    """The length of every plan that `plan_epoch` makes of these samples. Raises SettingsError."""
    _check(buckets, repeats, batch_size)
    images: Counter[tuple[int, int]] = Counter()
    for bucket, count in zip(buckets, repeats, strict=True):
        images[bucket] += count
    return sum(math.ceil(count / batch_size) for count in images.values())


def steps_per_epoch(
    buckets: Sequence[tuple[int, int]], repeats: Sequence[int], batch_size: int, accumulation: int = 1
) -> int:
    """Optimizer steps in one epoch, each of `accumulation` batches; the last of an epoch may take fewer.

    Raises SettingsError.
    """
    if accumulation < 1:
        raise SettingsError(f"The gradient accumulation {accumulation} must be at least 1.")
    return math.ceil(batches_per_epoch(buckets, repeats, batch_size) / accumulation)


def effective_epochs(steps: int, steps_in_epoch: int) -> float:
    """How often `steps` optimizer steps go through the data: 1600 steps of 1344 are 1.19 epochs."""
    if steps < 0 or steps_in_epoch < 1:
        raise SettingsError(f"{steps} steps of {steps_in_epoch} an epoch are no number of epochs.")
    return steps / steps_in_epoch


def images_of_a_step(asked: int, mean: float) -> str:
    """ "4 images", or how many at most and on average where batches cannot always be filled."""
    if mean == asked:
        return f"{asked} image{'s' if asked > 1 else ''}"
    told = f"{mean:.0f}" if mean >= 100 else f"{mean:.3g}"
    return f"at most {asked} images, {told} on average (those of a batch are of one bucket, of a step of one epoch)"


def _check(buckets: Sequence[tuple[int, int]], repeats: Sequence[int], batch_size: int) -> None:
    if batch_size < 1:
        raise SettingsError(f"The batch size {batch_size} must be at least 1.")
    if len(buckets) != len(repeats):
        raise SettingsError(f"{len(buckets)} buckets and {len(repeats)} repeats do not belong together.")
    if any(count < 1 for count in repeats):
        raise SettingsError(f"The repeats {min(repeats)} must be at least 1.")
    if not buckets:
        raise SettingsError("There are no samples to make batches of; choose a folder with images.")
