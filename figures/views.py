"""Other looks at images that are there already: cut out, enlarged, compared, averaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from PIL import Image, ImageDraw

from .draw import opaque


@dataclass(frozen=True)
class Region:
    """A rectangle in percent of an image's width and height; x and y are its top left corner."""

    x: float
    y: float
    width: float
    height: float

    def __post_init__(self) -> None:
        if not (0 <= self.x < 100 and 0 <= self.y < 100 and self.width > 0 and self.height > 0):
            raise ValueError(f"The region {self} is empty or outside the image; give percents from 0 to 100.")

    def box(self, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """Left, top, right, bottom in px, at least one pixel and inside the image."""
        left, top = round(self.x / 100 * size[0]), round(self.y / 100 * size[1])
        left, top = min(left, size[0] - 1), min(top, size[1] - 1)
        right = min(size[0], max(left + 1, round((self.x + self.width) / 100 * size[0])))
        bottom = min(size[1], max(top + 1, round((self.y + self.height) / 100 * size[1])))
        return left, top, right, bottom

    def __str__(self) -> str:
        return f"{self.x:g}, {self.y:g}, {self.width:g} × {self.height:g} %"


def crop(image: Image.Image, region: Region, enlarge: int = 1) -> Image.Image:
    """The region, each pixel drawn as a square of `enlarge` px, so that nothing is smoothed away."""
    piece = image.crop(region.box(image.size))
    return piece.resize((piece.width * enlarge, piece.height * enlarge), Image.Resampling.NEAREST)


def with_inset(image: Image.Image, region: Region, enlarge: int) -> Image.Image:
    """The image with the region framed, and enlarged in the corner where it hides least of it: at most half of each
    side. Of corners alike the lower right one is taken.
    """
    out, piece = image.copy(), crop(image, region, 1)
    scale = min(enlarge, image.width / 2 / piece.width, image.height / 2 / piece.height)
    size = max(1, round(piece.width * scale)), max(1, round(piece.height * scale))
    line = max(1, round(min(image.size) / 200))
    pen, (left, top, right, bottom) = ImageDraw.Draw(out), region.box(image.size)
    pen.rectangle((left, top, right - 1, bottom - 1), outline="#e0b000", width=line)
    framed = size[0] + 2 * line, size[1] + 2 * line
    rights, bottoms = (image.width - framed[0], 0), (image.height - framed[1], 0)
    x, y = min(product(rights, bottoms), key=lambda corner: _shared((left, top, right, bottom), corner, framed))
    pen.rectangle((x, y, x + framed[0] - 1, y + framed[1] - 1), fill="#e0b000")
    out.paste(piece.resize(size, Image.Resampling.NEAREST), (x + line, y + line))
    return out


def _shared(box: tuple[int, int, int, int], corner: tuple[int, int], size: tuple[int, int]) -> int:
    """Pixels that lie both in `box` (left, top, right, bottom) and in the rectangle of `size` at `corner`."""
    width = min(box[2], corner[0] + size[0]) - max(box[0], corner[0])
    height = min(box[3], corner[1] + size[1]) - max(box[1], corner[1])
    return max(0, width) * max(0, height)


def difference(image: Image.Image, reference: Image.Image, gain: float) -> Image.Image:
    """Grey where both agree, lighter or darker by `gain` times what they differ.

    Raises:
        ValueError: they are of different sizes.
    """
    import numpy as np

    if image.size != reference.size:
        raise ValueError(f"Images of {image.size} and {reference.size} pixels cannot be compared; take one size.")
    apart = np.asarray(opaque(image), np.float32) - np.asarray(opaque(reference), np.float32)
    return Image.fromarray(np.clip(np.rint(128 + gain * apart), 0, 255).astype(np.uint8))


def average(images: Sequence[Image.Image], *, spread: bool = False) -> Image.Image:
    """The mean of images of one size, or the sample standard deviation (n - 1) of each channel, four times as bright;
    that of one image is black.

    Raises:
        ValueError: there are none, or of different sizes.
    """
    import numpy as np

    if len({image.size for image in images}) != 1:
        raise ValueError("Only images of one size can be averaged; take one size, and cells that did not fail.")
    stack = np.stack([np.asarray(opaque(image), np.float32) for image in images])
    found = 4 * stack.std(0, ddof=min(1, len(stack) - 1)) if spread else stack.mean(0)
    return Image.fromarray(np.clip(np.rint(found), 0, 255).astype(np.uint8))
