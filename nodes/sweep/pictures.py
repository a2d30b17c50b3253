"""Pictures that no sweep made, as cells of a grid."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from PIL import Image

from .cell_store import CellStore, pixels_hash
from .grid import CellResult


def keep_image(store: CellStore, image: Image.Image, seconds: float, parameters: Mapping[str, object]) -> CellResult:
    """A picture kept under the hash of its pixels, so that equal ones lie on disk once.

    Raises:
        OSError: names the file that cannot be written.
    """
    key = hashlib.sha256(f"image {pixels_hash(image)}".encode()).hexdigest()
    kept = store.find(key) or store.keep(key, image, seconds, parameters)
    return CellResult(str(kept.path), "", seconds, key=key, pixels=kept.pixels, parameters=parameters)
