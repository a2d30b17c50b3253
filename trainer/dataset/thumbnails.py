"""Small pictures of a dataset's images: for a contact sheet, and for the file of a LoRA that was trained on them."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from ..errors import ImageError
from .images import load_thumbnail
from .samples import Dataset, Sample

if TYPE_CHECKING:
    from PIL import Image

COUNT = 8
_SIDE = 128
_BYTES = 60_000


def spread(samples: Sequence[Sample], count: int) -> Sequence[Sample]:
    """At most ``count`` of the samples, at equal distances from the first one on."""
    return samples[:: max(1, -(-len(samples) // count))]


def small_pictures(samples: Sequence[Sample], side: int, on_progress: Callable[[int, int], None]) -> list[Image.Image]:
    """The images, each at most ``side`` pixels wide and high; they are not to be changed.

    on_progress: called with (images read, images in all) after each; an exception it raises ends the work.

    Raises ImageError.
    """
    pictures = []
    for number, sample in enumerate(samples, start=1):
        pictures.append(_small(sample.content_hash, sample.path, side))
        on_progress(number, len(samples))
    return pictures


# keyed by content: where only captions or repeats are others, nothing is decoded again
@lru_cache(maxsize=512)
def _small(content_hash: str, path: str, side: int) -> Image.Image:
    return load_thumbnail(path, side)


def thumbnails(dataset: Dataset, count: int = COUNT) -> list[str]:
    """At most ``count`` images spread over the dataset, as data URIs that together stay below 60 kB.

    Images for regularisation are no examples of what is learnt and are not shown; nor are those that broke meanwhile.
    """
    samples = [sample for sample in dataset.samples if not sample.regularisation]
    found: list[str] = []
    for sample in spread(samples, count):
        uri = _data_uri(sample)
        if uri and sum(map(len, found)) + len(uri) <= _BYTES:
            found.append(uri)
    return found


def _data_uri(sample: Sample) -> str:
    try:
        picture = load_thumbnail(sample.path, _SIDE)
    except ImageError:
        return ""
    data = io.BytesIO()
    picture.save(data, "webp", quality=70, method=4)
    return f"data:image/webp;base64,{base64.b64encode(data.getvalue()).decode()}"
