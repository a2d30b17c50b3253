"""Between the host's images, float tensors (N, H, W, C) in [0, 1], and Pillow's."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from ..figures import opaque

MOST_WIRED_PIXELS = 64_000_000  # of a figure's pages as the host's images


def to_pillow(image: torch.Tensor) -> Image.Image:
    """(H, W, C) float in [0, 1] to RGB or RGBA, truncated to 8 bits as the host's SaveImage does."""
    return Image.fromarray(np.clip(255.0 * image.cpu().float().numpy(), 0, 255).astype(np.uint8))


def to_tensor(image: Image.Image) -> torch.Tensor:
    """A picture to (1, H, W, 3) float32 in [0, 1]; what is transparent shows white."""
    return torch.from_numpy(np.asarray(opaque(image), np.float32) / 255)[None]
