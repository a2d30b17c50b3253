"""What a training step consumes: latents, size conditioning and token ids of every sample, and their order."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch

from ..dataset.buckets import Placement, place, told_crop
from ..dataset.images import read_size
from ..dataset.samples import Dataset, Sample
from ..errors import BrokenImages, ImageError
from ..sdxl.parts import size_ids
from ..sdxl.tokens import Tokenize, caption_ids, stack_ids
from ..settings.training import TrainSettings
from .batches import effective_epochs, plan_epoch, steps_per_epoch
from .caption_variants import fixed_caption
from .latents import Latents, LatentsCache
from .masks import read_mask

OnItem = Callable[[int, int], None]


@dataclass(frozen=True)
class Example:
    """One sample ready for the U-Net: ``time_ids`` (6,) float32, ``tokens`` (2, 77k) int64, ``mask`` (1, h, w).

    mirrored: the same of its mirror image, which is seen instead in half of the steps; None where it never is.
    """

    sample: Sample
    placement: Placement
    latents: Latents
    time_ids: torch.Tensor
    tokens: torch.Tensor
    tokens_cut: int
    mask: torch.Tensor | None = None
    mirrored: Example | None = None


@dataclass(frozen=True)
class Batch:
    """Stacked examples: ``latents`` (N, 4, h, w), ``time_ids`` (N, 6), ``tokens`` (2, N, 77k), all on the CPU.

    mask: (N, 1, h, w) from 0 to 1, None where everything counts. prior: (N,) bool, True for regularisation images.
    rows: those that this process computes; numbers are drawn for all of them, whoever computes what.
    """

    latents: torch.Tensor
    time_ids: torch.Tensor
    tokens: torch.Tensor
    mask: torch.Tensor | None
    prior: torch.Tensor
    rows: slice = field(default_factory=lambda: slice(None))

    def own(self) -> Batch:
        """Its ``rows`` alone."""
        rows = self.rows
        mask = None if self.mask is None else self.mask[rows]
        return Batch(self.latents[rows], self.time_ids[rows], self.tokens[:, rows], mask, self.prior[rows])


def prepare(
    dataset: Dataset, settings: TrainSettings, cache: LatentsCache, tokenize: Tokenize, on_item: OnItem
) -> tuple[Example, ...]:
    """Encode and tokenize every sample at every resolution; with several of them, all samples at the first come first.

    ``on_item(done, of)`` after each image, and what it raises ends the work.

    Raises:
        BrokenImages: after everything else is encoded, for images that cannot be read any more.
    """
    examples: list[Example] = []
    broken: list[ImageError] = []
    placed = _placements(dataset, settings, broken)
    with cache.reading_ahead(placed, settings):
        for number, (sample, placement) in enumerate(placed, 1):
            try:
                examples.append(_both_ways(sample, placement, settings, cache, tokenize))
            except ImageError as error:
                broken.append(error)
            on_item(number, len(placed))
    if broken:
        raise BrokenImages(broken)
    return tuple(examples)


def _both_ways(
    sample: Sample, placement: Placement, settings: TrainSettings, cache: LatentsCache, tokenize: Tokenize
) -> Example:
    tokens, cut = caption_ids(fixed_caption(sample.caption, settings.captions), settings.captions, tokenize)
    if settings.captions.wildcards:
        # one of the lines is drawn each time
        sample = replace(sample, caption="\n".join(sample.all_captions))
    example = _example(sample, placement, settings, cache, tokens, cut)
    if not settings.images.flip:
        return example
    return replace(example, mirrored=_example(sample, placement, settings, cache, tokens, cut, mirrored=True))


def _placements(dataset: Dataset, settings: TrainSettings, broken: list[ImageError]) -> list[tuple[Sample, Placement]]:
    """Each sample at each resolution, less what comes out the same because the image is too small for more.

    Images whose size cannot be read are noted in ``broken``.
    """
    placed: dict[tuple[int, Placement], Sample] = {}
    sides = [None, *settings.images.more_resolutions]
    for side in sides:
        buckets = settings.buckets if side is None else replace(settings.buckets, resolution=(side, side))
        for index, sample in enumerate(dataset.samples):
            try:
                placed.setdefault((index, place(*_size(sample, settings), buckets)), sample)
            except ImageError as error:
                broken.append(error)
    return [(sample, placement) for (_, placement), sample in placed.items()]


def _example(
    sample: Sample,
    placement: Placement,
    settings: TrainSettings,
    cache: LatentsCache,
    tokens: torch.Tensor,
    cut: int,
    *,
    mirrored: bool = False,
) -> Example:
    size = _size(sample, settings)
    crop = placement.crop
    if mirrored:
        crop = (placement.resized[0] - placement.bucket[0] - crop[0], crop[1])
    if settings.told_crop == "kohya":
        top, left = told_crop(size, placement, mirrored=mirrored)
        crop = (left, top)
    mask = None if settings.loss.mask == "none" else read_mask(sample, size, placement, settings)
    if mirrored and mask is not None:
        mask = mask.flip(-1)
    latents = cache.get(sample, placement, settings, mirrored=mirrored)
    return Example(sample, placement, latents, torch.tensor(size_ids(size, crop, placement.bucket)), tokens, cut, mask)


def _size(sample: Sample, settings: TrainSettings) -> tuple[int, int]:
    # a sample's size is the one after EXIF rotation; kohya does not rotate
    if settings.images.exif_rotate:
        return sample.width, sample.height
    return read_size(sample.path, exif_rotate=False)


def collate(
    examples: Sequence[Example], latents: Sequence[torch.Tensor], tokens: Sequence[torch.Tensor] | None = None
) -> Batch:
    """One batch; ``tokens`` stand in for the examples' own where captions vary."""
    return Batch(
        torch.stack(list(latents)),
        torch.stack([e.time_ids for e in examples]),
        stack_ids([e.tokens for e in examples] if tokens is None else tokens),
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
    def images_per_step(self) -> float:
        """Images of a step on average: a batch has images of one bucket, and a step batches of one epoch."""
        return sum(self._repeats) / self.steps_per_epoch

    @property
    def epochs(self) -> float:
        """How often the run goes through the data, such as 1.19."""
        return effective_epochs(self._settings.steps, self.steps_per_epoch)

    def epoch_of(self, step: int) -> int:
        """Epoch of a step, both from 0."""
        return step // self.steps_per_epoch

    def ends_epoch(self, step: int) -> bool:
        return (step + 1) % self.steps_per_epoch == 0

    def largest_batch(self) -> tuple[int, ...]:
        """Indices of the first epoch's micro-batch of the most pixels."""
        return max(self._first_epoch(), key=lambda batch: len(batch) * math.prod(self._buckets[batch[0]]))

    def num_shapes(self) -> int:
        """How many sizes the first epoch's micro-batches have, in images and pixels."""
        return len({(len(batch), self._buckets[batch[0]]) for batch in self._first_epoch()})

    def _first_epoch(self) -> list[tuple[int, ...]]:
        steps = range(min(self.steps_per_epoch, self._settings.steps))
        return [batch for step in steps for batch in self.micro_batches(step)]

    def micro_batches(self, step: int) -> list[tuple[int, ...]]:
        """Indices of examples for each micro-batch of a step; the last step of an epoch may have fewer."""
        if self._epoch != (epoch := self.epoch_of(step)):
            settings = self._settings
            self._batches = plan_epoch(self._buckets, self._repeats, settings.batch_size, settings.seed, epoch)
            self._epoch = epoch
        size = self._settings.gradient_accumulation
        start = (step % self.steps_per_epoch) * size
        return self._batches[start : start + size]
