"""Masks: pictures of the images' names in a folder `masks` beside them."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..errors import ImageError
from .buckets import Size
from .images import IMAGE_EXTENSIONS, hash_image, load_alpha, load_grey
from .samples import Problem, printable

MASKS = "masks"


@dataclass(frozen=True)
class Mask:
    """A mask that can be decoded.

    content_hash: SHA-256 (hexadecimal) of its file, and ``+alpha`` if parts of it are transparent: such a mask once
    counted there. size: (width, height) in pixels, after EXIF rotation. black: it is black everywhere.
    """

    content_hash: str
    size: Size
    black: bool


class Masks:
    """The masks beside a folder's images, by the name of the image without its ending.

    Where no mask has an image's very name, one that differs from it in capitals or in how its letters are composed is
    taken, as Windows and macOS would.
    """

    def __init__(self, by_stem: Mapping[str, Path]) -> None:
        self._exact = dict(by_stem)
        self._alike = {_folded(stem): path for stem, path in by_stem.items()}

    def of(self, image: Path) -> Path | None:
        return self._exact.get(image.stem) or self._alike.get(_folded(image.stem))

    def orphans(self, images: Iterable[Path]) -> list[Path]:
        """Those of none of these images."""
        used = {self.of(image) for image in images}
        return sorted(path for path in self._exact.values() if path not in used)


def _folded(stem: str) -> str:
    return unicodedata.normalize("NFC", stem).casefold()


def find_masks(folder: Path, root: Path) -> Masks:
    """The masks beside a folder's images.

    Their ending is that of any image, in capitals or not; of several the first one of IMAGE_EXTENSIONS counts. Links
    out of ``root`` are left out.
    """
    try:
        paths = [folder / MASKS / name for name in sorted(os.listdir(folder / MASKS)) if not name.startswith(".")]
    except OSError:
        return Masks({})
    pictures = [path for path in paths if path.suffix.lower() in IMAGE_EXTENSIONS and path.is_file()]
    # the last one of a name stays
    pictures.sort(key=lambda path: IMAGE_EXTENSIONS.index(path.suffix.lower()), reverse=True)
    return Masks({path.stem: path for path in pictures if Path(os.path.realpath(path)).is_relative_to(root)})


def examine_mask(path: Path) -> Mask:
    """The mask in a file, decoded in full. Raises ImageError, or OSError where it cannot be read."""
    return _decoded(hash_image(path), str(path))


@lru_cache(maxsize=1 << 16)
def _decoded(content_hash: str, path: str) -> Mask:
    grey = load_grey(path)
    clear = (alpha := load_alpha(path)) is not None and alpha.getextrema()[0] < 255
    return Mask(content_hash + "+alpha" * clear, grey.size, grey.getextrema()[1] == 0)


def mask_problems(name: str, size: Size, path: Path, mask: Mask | ImageError) -> Iterator[Problem]:
    """What is to be told of an image's mask. name, size: of the image. path: the mask's."""
    file = f"{MASKS}/{printable(path.name)}"
    if isinstance(mask, ImageError):
        detail = f"{file}: {printable(mask.reason)}; a training with masks leaves this image out"
        yield Problem(name, "mask_broken", detail)
        return
    if not _alike(size, mask.size):
        shapes = "{}x{} over {}x{}".format(*mask.size, *size)
        yield Problem(name, "mask_aspect", f"{file} is stretched to cover the image, {shapes} pixels")
    if mask.black:
        yield Problem(name, "mask_black", f"{file} lets nothing of this image count")


def _alike(image: Size, mask: Size) -> bool:
    """Whether one has the shape of the other, but for the rounding of its sides to whole pixels."""
    return abs(image[0] * mask[1] - image[1] * mask[0]) <= max(sum(image), sum(mask))
