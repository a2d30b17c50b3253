"""The order of training: complete, in whole buckets, and a function of the seed and the epoch alone."""

from __future__ import annotations

from collections import Counter

import pytest
from pack.trainer.errors import SettingsError
from pack.trainer.training.batches import batches_per_epoch, effective_epochs, plan_epoch, steps_per_epoch

WIDE, TALL, SQUARE = (1216, 832), (832, 1216), (1024, 1024)
BUCKETS = [WIDE, TALL, WIDE, SQUARE, TALL, WIDE, WIDE, SQUARE]
REPEATS = [1, 2, 1, 3, 1, 1, 5, 1]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 100])
@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_an_epoch_shows_every_image_as_often_as_it_is_repeated(batch_size, epoch) -> None:
    seen = Counter(i for batch in plan_epoch(BUCKETS, REPEATS, batch_size, 3, epoch) for i in batch)
    assert seen == dict(enumerate(REPEATS))


@pytest.mark.parametrize("batch_size", [2, 3, 4, 100])
def test_a_batch_is_full_or_the_only_partial_one_of_its_single_bucket(batch_size) -> None:
    partial: Counter[tuple[int, int]] = Counter()
    for batch in plan_epoch(BUCKETS, REPEATS, batch_size, 3, 0):
        (bucket,) = {BUCKETS[i] for i in batch}
        assert 1 <= len(batch) <= batch_size
        partial[bucket] += len(batch) < batch_size
    assert max(partial.values()) <= 1


def test_the_same_seed_and_epoch_give_the_same_plan_whatever_came_before() -> None:
    straight = [plan_epoch(BUCKETS, REPEATS, 2, 11, epoch) for epoch in range(4)]
    assert plan_epoch(BUCKETS, REPEATS, 2, 11, 3) == straight[3]


def test_another_seed_or_another_epoch_gives_another_order() -> None:
    buckets, repeats = [SQUARE] * 50, [1] * 50
    plans = [plan_epoch(buckets, repeats, 1, seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1))]
    assert all(a != b for i, a in enumerate(plans) for b in plans[:i])


def test_buckets_are_mixed_within_an_epoch() -> None:
    plan = plan_epoch([WIDE] * 30 + [TALL] * 30, [1] * 60, 2, 0, 0)
    kinds = [batch[0] < 30 for batch in plan]
    changes = sum(a != b for a, b in zip(kinds, kinds[1:], strict=False))
    assert changes > 5


@pytest.mark.parametrize(
    ("batch_size", "accumulation", "batches", "steps"),
    [(1, 1, 15, 15), (1, 4, 15, 4), (2, 1, 8, 8), (4, 1, 4, 4), (4, 3, 4, 2), (100, 1, 3, 3)],
)
def test_the_length_of_an_epoch(batch_size, accumulation, batches, steps) -> None:
    assert batches_per_epoch(BUCKETS, REPEATS, batch_size) == batches
    assert len(plan_epoch(BUCKETS, REPEATS, batch_size, 0, 0)) == batches
    assert steps_per_epoch(BUCKETS, REPEATS, batch_size, accumulation) == steps


def test_the_1600_steps_of_the_thesis_are_1_19_epochs() -> None:
    in_epoch = steps_per_epoch([SQUARE] * 1344, [1] * 1344, 1)
    assert in_epoch == 1344
    assert round(effective_epochs(1600, in_epoch), 2) == 1.19


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((BUCKETS, REPEATS, 0, 0, 0), "batch size 0"),
        ((BUCKETS, REPEATS, -2, 0, 0), "batch size -2"),
        ((BUCKETS, REPEATS[:-1], 1, 0, 0), "8 buckets and 7 repeats"),
        (([SQUARE], [0], 1, 0, 0), "repeats 0"),
        (([], [], 1, 0, 0), "no samples"),
        (([SQUARE], [1], 1, -1, 0), "seed -1"),
    ],
)
def test_a_plan_that_cannot_be_made_is_refused_by_name(arguments, says) -> None:
    with pytest.raises(SettingsError, match=says):
        plan_epoch(*arguments)


def test_no_accumulation_and_no_epoch_are_refused() -> None:
    with pytest.raises(SettingsError, match="accumulation 0"):
        steps_per_epoch([SQUARE], [1], 1, 0)
    with pytest.raises(SettingsError, match="5 steps of 0"):
        effective_epochs(5, 0)
