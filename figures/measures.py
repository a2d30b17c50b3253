"""One number for an image: its saturation, contrast or burnt highlights, and how far two images are apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from PIL import Image

from .draw import opaque

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Pixels = NDArray


def _pixels(image: Image.Image) -> Pixels:
    """(H, W, 3) float64 in [0, 255]."""
    import numpy as np

    return np.asarray(opaque(image), np.float64)


def saturation(image: Image.Image) -> float:
    """Mean chroma (largest less smallest of R, G, B) in % of full scale; dark pixels count as little as they show."""
    pixels = _pixels(image)
    return float((pixels.max(-1) - pixels.min(-1)).mean() / 2.55)


def contrast(image: Image.Image) -> float:
    """RMS contrast (Peli 1990): standard deviation of the luma (ITU-R BT.709) in % of full scale."""
    return float((_pixels(image) @ (0.2126, 0.7152, 0.0722)).std() / 2.55)


def clipped(image: Image.Image) -> float:
    """Pixels of which a channel is at its upper end, in %: highlights without detail."""
    return float((_pixels(image).max(-1) >= 254).mean() * 100)


def distance(image: Image.Image, reference: Image.Image) -> float:
    """Root mean square difference in steps of 255; an image of another size is scaled to the reference."""
    scaled = image if image.size == reference.size else image.resize(reference.size, Image.Resampling.LANCZOS)
    return float(((_pixels(scaled) - _pixels(reference)) ** 2).mean() ** 0.5)


MEASURES: dict[str, Callable[[Image.Image], float]] = {
    "saturation": saturation,
    "contrast": contrast,
    "clipped highlights": clipped,
}
UNITS = {
    "saturation": "% of full scale",
    "contrast": "% of full scale",
    "clipped highlights": "% of the pixels",
    "distance": "RMS, of 255",
    "CLIP score": "cosine of image and prompt",
    "seconds": "s",
}
