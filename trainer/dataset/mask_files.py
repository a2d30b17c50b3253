"""Where masks lie: pictures of the images' names in a folder `masks` beside them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from .images import IMAGE_EXTENSIONS

MASKS = "masks"


def mask_file(image: Path, root: Path | None = None) -> Path | None:
    """The mask of an image; None where there is none, or where it is a link out of ``root``."""
    for extension in IMAGE_EXTENSIONS:
        path = image.parent / MASKS / f"{image.stem}{extension}"
        if path.is_file() and (root is None or Path(os.path.realpath(path)).is_relative_to(root)):
            return path
    return None


def mask_hash(image: Path, root: Path) -> str:
    """SHA-256 of the mask's file, so that an edited mask is another sample; empty where there is none."""
    path = mask_file(image, root)
    return hashlib.sha256(path.read_bytes()).hexdigest() if path else ""
