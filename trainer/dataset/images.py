"""Image files of every usual kind become 8-bit RGB pictures, and pictures become training images.

Imports Pillow when used, not before: a host starts faster that way.
"""

from __future__ import annotations

import hashlib
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ImageError
from .buckets import Placement, Size

if TYPE_CHECKING:
    from PIL import Image

IMAGE_EXTENSIONS = (".avif", ".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
MAX_PIXELS = 89_478_485  # Pillow's own guard against decompression bombs, which a host may have changed
WHITE, BLACK = (255, 255, 255), (0, 0, 0)

_ORIENTATION = 0x0112
# warnings filters belong to the whole process, so only one thread at a time may change them
_filters_lock = threading.Lock()


def hash_image(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal. Raises ImageError, or OSError where it cannot be read."""
    # a pipe or a device may carry an image's name, and reading it would wait for ever
    if not path.is_file():
        raise ImageError(path, "it is a link to nothing" if path.is_symlink() else "it is not a regular file")
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def load_rgb(
    path: str | os.PathLike[str],
    *,
    exif_rotate: bool = True,
    background: tuple[int, int, int] | None = WHITE,
) -> Image.Image:
    """The picture in a file, decoded in full, as 8-bit RGB.

    exif_rotate: turn it the way the camera was held. kohya does not.
    background: the colour behind transparent pixels, 0 to 255 per channel; None drops alpha, as kohya does.

    16-bit greyscale is scaled to 8 bits; floating-point greyscale is taken as 0 to 1, or as 0 to its
    largest value where that is greater. Of an animation the first frame counts. Raises ImageError.
    """
    with _opened(path) as image:
        image.load()
        rgb = _to_rgb(image, background)
        orientation = _orientation(image) if exif_rotate else 1
    return _turned(rgb, orientation)


def load_thumbnail(path: str | os.PathLike[str], side: int, *, exif_rotate: bool = True) -> Image.Image:
    """The picture as `load_rgb` gives it, at most `side` pixels wide and high; never enlarged. Raises ImageError.

    A large JPEG is decoded at an eighth to a half of its size where that is enough.
    """
    from PIL.Image import Resampling

    with _opened(path) as image:
        image.draft("RGB", (2 * side, 2 * side))
        image.load()
        rgb = _to_rgb(image, WHITE)
        orientation = _orientation(image) if exif_rotate else 1
    rgb.thumbnail((side, side), Resampling.LANCZOS, reducing_gap=3.0)
    return _turned(rgb, orientation)


def load_alpha(path: str | os.PathLike[str], *, exif_rotate: bool = True) -> Image.Image | None:
    """How opaque the picture is, 8-bit greyscale with 255 for opaque; None without transparency. Raises ImageError."""
    with _opened(path) as image:
        if not image.has_transparency_data:
            return None
        alpha = image.convert("RGBA").getchannel("A")
        orientation = _orientation(image) if exif_rotate else 1
    return _turned(alpha, orientation)


def load_grey(path: str | os.PathLike[str], *, exif_rotate: bool = True) -> Image.Image:
    """The picture as `load_rgb` gives it, before black, as 8-bit greyscale. Raises ImageError."""
    return load_rgb(path, exif_rotate=exif_rotate, background=BLACK).convert("L")


def read_size(path: str | os.PathLike[str], *, exif_rotate: bool = True) -> Size:
    """The (width, height) that `load_rgb` would give, from the file's header alone. Raises ImageError."""
    with _opened(path) as image:
        # Pillow itself turns TIFF files when it decodes them, and gives the turned size from the start
        turned = exif_rotate and image.format != "TIFF" and _orientation(image) >= 5
        return (image.height, image.width) if turned else image.size


def count_frames(path: str | os.PathLike[str]) -> int:
    """How many frames an animation or a paged file has; 1 for a still image. Raises ImageError."""
    with _opened(path) as image:
        # a camera's MPO is one photograph with previews of it
        return 1 if image.format == "MPO" else int(getattr(image, "n_frames", 1))


def apply_placement(image: Image.Image, placement: Placement) -> Image.Image:
    """The training image: resized to `placement.resized`, then cropped to `placement.bucket`.

    Shrinks by the average over the area that becomes a pixel (kohya: cv2.INTER_AREA) and enlarges by
    Lanczos. Only the crop is computed, so an extremely thin image needs no more memory than a normal one.
    """
    from PIL import Image

    width, height = placement.resized
    scale_x, scale_y = image.width / width, image.height / height
    left, top = placement.crop
    right, bottom = left + placement.bucket[0], top + placement.bucket[1]
    if image.size == placement.resized:
        return image.crop((left, top, right, bottom))
    if scale_x < 1 or scale_y < 1:
        method = Image.Resampling.LANCZOS
    elif scale_x.is_integer() and scale_y.is_integer():
        method = Image.Resampling.BOX
    else:
        # BOX takes or leaves whole pixels, which tears edges; HAMMING is nearest to the true area average
        method = Image.Resampling.HAMMING
    corner = min(right * scale_x, image.width), min(bottom * scale_y, image.height)
    return image.resize(placement.bucket, method, box=(left * scale_x, top * scale_y, *corner))


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    """Opens an image and gives everything that Pillow can raise, until it is closed, as an ImageError."""
    from PIL import Image, UnidentifiedImageError

    try:
        if not os.path.isfile(path):
            raise ImageError(path, "there is no such file")
        if os.path.getsize(path) == 0:
            raise ImageError(path, "it is empty (0 bytes)")
        with _filters_lock, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path)
        with image:
            _refuse_bomb(path, image.size)
            yield image
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(path, "it is not an image of a known format") from None
    except Image.DecompressionBombError:
        raise ImageError(path, _too_large(2 * MAX_PIXELS)) from None
    except MemoryError:
        raise ImageError(path, "there is not enough memory to decode it") from None
    # a broken file makes Pillow's decoders raise nearly anything: OSError, SyntaxError, struct.error, ...
    except Exception as error:
        raise ImageError(path, _reason(error)) from error


def _refuse_bomb(path: str | os.PathLike[str], size: Size) -> None:
    if size[0] * size[1] > MAX_PIXELS:
        raise ImageError(path, _too_large(size[0] * size[1]))


def _too_large(pixels: int) -> str:
    megapixels, limit = pixels // 1_000_000, MAX_PIXELS // 1_000_000
    return f"it has {megapixels} megapixels, and at most {limit} are decoded"


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    if "truncated" in text or "incomplete" in text or "Truncated" in text:
        return f"it is truncated ({text})"
    return f"it cannot be decoded ({text or type(error).__name__})"


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none or it cannot be read."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # EXIF is written by every camera in its own way; broken EXIF is no broken picture
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return image.transpose(turns[orientation]) if orientation in turns else image


def _to_rgb(image: Image.Image, background: tuple[int, int, int] | None) -> Image.Image:
    from PIL import Image

    if image.mode == "F" or image.mode.startswith("I"):
        image = _grey_to_8_bits(image)
    if background is None or not image.has_transparency_data:
        return image.convert("RGB")
    picture = image.convert("RGBA")
    canvas = Image.new("RGBA", picture.size, (*background, 255))
    return Image.alpha_composite(canvas, picture).convert("RGB")


def _grey_to_8_bits(image: Image.Image) -> Image.Image:
    """Greyscale of 16 or 32 bits or floating point, scaled; Pillow's own conversion clips it to white."""
    import numpy
    from PIL import Image

    values = numpy.nan_to_num(numpy.asarray(image, dtype=numpy.float32), nan=0.0, posinf=0.0, neginf=0.0)
    full_scale = 1.0 if image.mode == "F" else 65535.0
    white = max(full_scale, float(values.max()))
    return Image.fromarray(numpy.rint(values.clip(0.0) * (255.0 / white)).astype(numpy.uint8))
