"""Small pictures of what a LoRA was trained on, for its own file."""

from __future__ import annotations

import base64
import io

from ..errors import ImageError
from .images import load_thumbnail
from .samples import Dataset, Sample

COUNT = 8
_SIDE = 128
_BYTES = 60_000


def thumbnails(dataset: Dataset, count: int = COUNT) -> list[str]:
    """At most ``count`` images spread over the dataset, as data URIs that together stay below 60 kB.

    Images for regularisation are no examples of what is learnt and are not shown; nor are those that broke meanwhile.
    """
    samples = [sample for sample in dataset.samples if not sample.regularisation]
    step = max(1, -(-len(samples) // count))
    found: list[str] = []
    for sample in samples[::step]:
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
