"""What a training step consumes: latents, size conditioning and token ids of every sample, and their order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from .batches import effective_epochs, plan_epoch, steps_per_epoch
from .buckets import Placement, place, told_crop
from .images import read_size
from .latents import Latents, LatentsCache
from .masks import read_mask
from .samples import Dataset, Sample
from .sdxl import pad_tokens, size_ids
from .settings import TrainSettings

Tokenize = Callable[[str], Sequence[int]]
"""A caption to CLIP's token ids with start and end, uncut."""
OnItem = Callable[[int, int], None]


@dataclass(frozen=True)
class Example:
    """One sample ready for the U-Net: ``time_ids`` (6,) float32, ``tokens`` (2, 77) int64, ``mask`` (1, h, w)."""

    sample: Sample
    placement: Placement
    latents: Latents
    time_ids: torch.Tensor
    tokens: torch.Tensor
    tokens_cut: int
    mask: torch.Tensor | None = None


@dataclass(frozen=True)
class Batch:
    """Stacked examples: ``latents`` (N, 4, h, w), ``time_ids`` (N, 6), ``tokens`` (2, N, 77), all on the CPU.

    mask: (N, 1, h, w) from 0 to 1, None where everything counts. prior: (N,) bool, True for regularisation images.
    """

    latents: torch.Tensor
    time_ids: torch.Tensor
    tokens: torch.Tensor
    mask: torch.Tensor | None
    prior: torch.Tensor


def prepare(
    dataset: Dataset, settings: TrainSettings, cache: LatentsCache, tokenize: Tokenize, on_item: OnItem
) -> tuple[Example, ...]:
    """Encode and tokenize every sample; ``on_item(done, of)`` after each, and what it raises ends the work."""
    examples = []
    for number, sample in enumerate(dataset.samples, 1):
        size = _size(sample, settings)
        placement = place(*size, settings.buckets)
        crop = placement.crop
        if settings.told_crop == "kohya":
            top, left = told_crop(size, placement)
            crop = (left, top)
        first, second, cut = pad_tokens(tokenize(sample.caption))
        examples.append(
            Example(
                sample,
                placement,
                cache.get(sample, placement, settings),
                torch.tensor(size_ids(size, crop, placement.bucket)),
                torch.tensor([first, second]),
                cut,
                None if settings.loss.mask == "none" else read_mask(sample, size, placement, settings),
            )
        )
        on_item(number, dataset.num_images)
    return tuple(examples)


def _size(sample: Sample, settings: TrainSettings) -> tuple[int, int]:
    # a sample's size is the one after EXIF rotation; kohya does not rotate
    if settings.images.exif_rotate:
        return sample.width, sample.height
    return read_size(sample.path, exif_rotate=False)


def collate(examples: Sequence[Example], latents: Sequence[torch.Tensor]) -> Batch:
    return Batch(
        torch.stack(list(latents)),
        torch.stack([e.time_ids for e in examples]),
        torch.stack([e.tokens for e in examples], dim=1),
        _masks(examples, latents),
        torch.tensor([e.sample.regularisation for e in examples]),
    )


def _masks(examples: Sequence[Example], latents: Sequence[torch.Tensor]) -> torch.Tensor | None:
    if all(e.mask is None for e in examples):
        return None
    whole = torch.ones(1, *latents[0].shape[1:])
    return torch.stack([whole if e.mask is None else e.mask for e in examples])


class Plan:
    """Which examples make the micro-batches of every optimizer step: a function of settings and samples alone."""

    def __init__(self, examples: Sequence[Example], settings: TrainSettings) -> None:
        self._buckets = [e.placement.bucket for e in examples]
        self._repeats = [e.sample.repeats for e in examples]
        self._settings = settings
        self._epoch, self._batches = -1, []
        self.steps_per_epoch = steps_per_epoch(
            self._buckets, self._repeats, settings.batch_size, settings.gradient_accumulation
        )

    @property
    def epochs(self) -> float:
        """How often the run goes through the data, such as 1.19."""
        return effective_epochs(self._settings.steps, self.steps_per_epoch)

    def epoch_of(self, step: int) -> int:
        """Epoch of a step, both from 0."""
        return step // self.steps_per_epoch

    def ends_epoch(self, step: int) -> bool:
        return (step + 1) % self.steps_per_epoch == 0

    def micro_batches(self, step: int) -> list[tuple[int, ...]]:
        """Indices of examples for each micro-batch of a step; the last step of an epoch may have fewer."""
        if self._epoch != (epoch := self.epoch_of(step)):
            settings = self._settings
            self._batches = plan_epoch(self._buckets, self._repeats, settings.batch_size, settings.seed, epoch)
            self._epoch = epoch
        size = self._settings.gradient_accumulation
        start = (step % self.steps_per_epoch) * size
        return self._batches[start : start + size]
