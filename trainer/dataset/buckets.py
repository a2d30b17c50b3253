"""Aspect-ratio buckets: which size an image is resized to, and what is cropped away.

Matches `BucketManager` of kohya-ss/sd-scripts (b8896aad). Sizes are (width, height) in pixels and are
integers everywhere; (top, left) pairs are named so, because SDXL is told crops in that order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from ..errors import SettingsError

Size = tuple[int, int]


@dataclass(frozen=True)
class BucketSettings:
    """How images of any size become training images of few sizes.

    resolution: (width, height) whose product is the largest area an image keeps.
    min_size, max_size: range of bucket sides; they count only when images may be enlarged.
    step: every bucket side is a multiple of it.
    no_upscale: never enlarge; the bucket follows from the image. Otherwise the bucket of the nearest
        aspect ratio in a fixed list is filled, enlarging where needed.
    enabled: without buckets every image is resized to cover `resolution` and cropped to it.

    Raises SettingsError naming the field and the value.
    """

    resolution: Size = (1024, 1024)
    min_size: int = 256
    max_size: int = 2048
    step: int = 64
    no_upscale: bool = True
    enabled: bool = True

    def __post_init__(self) -> None:
        # the latents are an eighth of the image and the U-Net halves them twice; kohya asks for 32 as well
        if self.step < 32 or self.step % 32:
            raise SettingsError(f"The bucket step {self.step} must be a multiple of 32, such as 64.")
        width, height = self.resolution
        unit = self.step if self.enabled else 32
        if min(width, height) < unit:
            raise SettingsError(f"The resolution {width}x{height} must be at least {unit} pixels a side.")
        if not self.enabled and (width % 8 or height % 8):
            raise SettingsError(f"Without buckets, the resolution {width}x{height} must be a multiple of 8.")
        if self.enabled and not self.no_upscale:
            self._check_range()

    def _check_range(self) -> None:
        for name, side in (("smallest", self.min_size), ("largest", self.max_size)):
            if side < self.step or side % self.step:
                raise SettingsError(f"The {name} bucket side {side} must be a multiple of {self.step}.")
        if self.max_size < max(self.min_size, *self.resolution):
            raise SettingsError(
                f"The largest bucket side {self.max_size} must reach both the smallest one ({self.min_size}) "
                f"and the resolution {self.resolution[0]}x{self.resolution[1]}."
            )

    @property
    def area(self) -> int:
        """The largest area of a training image, in pixels."""
        return self.resolution[0] * self.resolution[1]


@dataclass(frozen=True)
class Placement:
    """Resize an image to `resized`, then cut `bucket` out of it from `crop` = (left, top) on."""

    resized: Size
    bucket: Size
    crop: Size

    @property
    def kept(self) -> float:
        """The share of the resized image's pixels that is left after the crop, in (0, 1]."""
        return (self.bucket[0] * self.bucket[1]) / (self.resized[0] * self.resized[1])


def place(width: int, height: int, settings: BucketSettings) -> Placement:
    """Where an image of `width` x `height` pixels ends up.

    Under `no_upscale`, an image with a side shorter than one step is enlarged until it fills one: kohya
    would ask for a bucket of size 0 there.
    """
    if width < 1 or height < 1:
        raise ValueError(f"An image of {width}x{height} pixels has no bucket.")
    if not settings.enabled:
        return _cover(width, height, settings.resolution)
    if not settings.no_upscale:
        return _cover(width, height, _nearest_bucket(width, height, settings))
    resized = _shrink_to_area(width, height, settings)
    if min(resized) < settings.step:
        resized = _fill_one_step(width, height, settings.step)
    return _centred(resized, _largest_bucket_inside(resized, settings))


def told_crop(original: Size, placement: Placement, *, mirrored: bool = False) -> tuple[int, int]:
    """The (top, left) that kohya tells SDXL: `get_crop_ltrb`, which is not where the crop was made.

    It fits the original aspect ratio *into* the bucket, where the image in truth covers it, so the margin
    appears on the other axis. The true crop is `placement.crop`, as (left, top).
    """
    width, height = placement.bucket
    aspect = original[0] / original[1]
    if width / height > aspect:
        margin = width - height * aspect
        # a mirrored image is told the margin on its right, and halves are rounded down on the left
        return 0, int(margin - margin // 2 if mirrored else margin // 2)
    return int((height - width / aspect) // 2), 0


def bucket_list(settings: BucketSettings) -> tuple[Size, ...]:
    """The buckets that images are enlarged or shrunk to, sorted; unused under `no_upscale`."""
    step, area = settings.step, settings.area
    side = int(math.sqrt(area) // step) * step
    sizes = {(side, side)}
    for width in range(settings.min_size, settings.max_size + 1, step):
        height = min(settings.max_size, area // width // step * step)
        if height >= settings.min_size:
            sizes |= {(width, height), (height, width)}
    return tuple(sorted(sizes))


_buckets_of = lru_cache(maxsize=16)(bucket_list)


def _nearest_bucket(width: int, height: int, settings: BucketSettings) -> Size:
    buckets = _buckets_of(settings)
    if (width, height) in buckets:
        return width, height
    aspect = width / height
    return min(buckets, key=lambda size: abs(size[0] / size[1] - aspect))


def _shrink_to_area(width: int, height: int, settings: BucketSettings) -> Size:
    """The size of at most the allowed area with one side on a multiple of the step; 0 where none fits."""
    if width * height <= settings.area:
        return width, height
    aspect = width / height
    ideal_width = math.sqrt(settings.area * aspect)
    ideal_height = settings.area / ideal_width

    # either side may be the exact one; the other follows from the aspect ratio
    exact_width = _round_down(ideal_width, settings.step)
    by_width = (exact_width, _round_down(exact_width / aspect, settings.step))
    exact_height = _round_down(ideal_height, settings.step)
    by_height = (_round_down(exact_height * aspect, settings.step), exact_height)
    if _aspect_error(by_width, aspect) < _aspect_error(by_height, aspect):
        return exact_width, int(exact_width / aspect + 0.5)
    return int(exact_height * aspect + 0.5), exact_height


def _round_down(side: float, step: int) -> int:
    return int(side + 0.5) // step * step


def _aspect_error(size: Size, aspect: float) -> float:
    return abs(size[0] / size[1] - aspect) if size[1] else math.inf


def _fill_one_step(width: int, height: int, step: int) -> Size:
    short = min(width, height)
    return max(step, int(width * step / short + 0.5)), max(step, int(height * step / short + 0.5))


def _largest_bucket_inside(size: Size, settings: BucketSettings) -> Size:
    step = settings.step
    width, height = (side // step * step for side in size)
    # only an extremely thin image, enlarged to one step, can exceed the area here
    if width * height > settings.area:
        longest = max(step, settings.area // min(width, height) // step * step)
        width, height = min(width, longest), min(height, longest)
    return width, height


def _cover(width: int, height: int, bucket: Size) -> Placement:
    wider = width / height > bucket[0] / bucket[1]
    scale = bucket[1] / height if wider else bucket[0] / width
    resized = int(width * scale + 0.5), int(height * scale + 0.5)
    return _centred(resized, bucket)


def _centred(resized: Size, bucket: Size) -> Placement:
    return Placement(resized, bucket, ((resized[0] - bucket[0]) // 2, (resized[1] - bucket[1]) // 2))
