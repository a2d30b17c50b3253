"""Where the loss counts: masks from an image's transparency or from pictures of the same name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..dataset.buckets import Placement, Size
from ..dataset.images import apply_placement, load_alpha, load_grey
from ..dataset.mask_files import examine_mask
from ..dataset.samples import Sample, printable
from ..errors import ImageError
from ..settings.training import TrainSettings

if TYPE_CHECKING:
    from PIL import Image

_CELL = 8  # pixels a latent stands for


def read_mask(sample: Sample, size: Size, placement: Placement, settings: TrainSettings) -> torch.Tensor | None:
    """(1, H/8, W/8) float32 from 0 to 1, resized and cropped as the image is; None where the image counts everywhere.

    size: (width, height) of the image as it is read. Raises ImageError, of the image, also where its mask cannot
    be used.
    """
    rotate = settings.images.exif_rotate
    if settings.loss.mask == "alpha":
        picture = load_alpha(sample.path, exif_rotate=rotate)
    else:
        picture = _loaded(sample, rotate) if sample.mask else None
    if picture is None:
        return None
    if picture.size != size:
        picture = picture.resize(size)
    values = torch.from_numpy(np.asarray(apply_placement(picture, placement), np.float32) / 255)
    return torch.nn.functional.avg_pool2d(values[None, None], _CELL)[0]


def _loaded(sample: Sample, rotate: bool) -> Image.Image:
    # whoever leaves out what cannot be used knows images, not masks
    name = printable(Path(sample.mask).name)
    try:
        picture = load_grey(sample.mask, exif_rotate=rotate)
    except ImageError as error:
        raise ImageError(sample.path, f"its mask '{name}' cannot be used, for {error.reason}") from error
    if examine_mask(Path(sample.mask)).content_hash != sample.mask_hash:
        raise ImageError(
            sample.path,
            f"its mask '{name}' has changed since the dataset was made; queue again to train with it as it is",
        )
    return picture
