"""Nearest neighbours of a grid's cells among training images, in the latent space of a VAE."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps

from ...figures import cells, opaque
from ...trainer.dataset.images import load_rgb
from ...trainer.dataset.samples import Dataset
from ..images import to_tensor
from ..progress import NodeWatcher
from ..sweep.cell_store import CellStore
from ..sweep.grid import CellResult, Grid, Index
from ..sweep.pictures import keep_image


@dataclass(frozen=True)
class Neighbour:
    """A training image and its distance: root mean square difference of the latents, which are near unit variance."""

    path: str
    name: str
    distance: float
    size: tuple[int, int]

    def as_cell(self, store: CellStore, seconds: float) -> CellResult:
        """The training image, cut to the cell's size, as a cell of a grid."""
        picture = ImageOps.fit(load_rgb(self.path), self.size, Image.Resampling.LANCZOS)
        return keep_image(store, picture, seconds, {"training image": self.name, "distance": self.distance})


def nearest_images(grid: Grid, dataset: Dataset, vae: Any, side: int, watcher: NodeWatcher) -> dict[Index, Neighbour]:
    """By cell index; failed cells are left out. Every training image is encoded once, and no picture is held.

    Raises:
        ValueError: there is no image to compare with.
    """
    samples = [sample for sample in dataset.samples if not sample.regularisation]
    if not samples:
        raise ValueError("The dataset holds no training images to compare with; connect the one that was trained on.")
    sizes: dict[Index, tuple[int, int]] = {}
    own = []
    for cell in cells(grid.axes):
        if (image := grid.image(cell)) is not None:
            sizes[cell.index] = image.size
            own.append(_latent(vae, image, side))
    if not own:
        raise ValueError("Every cell of the grid has failed, so there is nothing to compare; see the sweep's report.")
    latents = torch.stack(own)
    best = torch.full((len(latents),), torch.inf)
    chosen = torch.zeros(len(latents), dtype=torch.long)
    for number, sample in enumerate(samples):
        watcher.stage("training images", number, len(samples))
        apart = (latents - _latent(vae, load_rgb(sample.path), side)).square().flatten(1).mean(1).sqrt()
        nearer = apart < best
        best[nearer], chosen[nearer] = apart[nearer], number
    return {
        index: Neighbour(samples[at].path, Path(samples[at].path).name, float(apart), size)
        for (index, size), at, apart in zip(sizes.items(), chosen.tolist(), best.tolist(), strict=True)
    }


def _latent(vae: Any, image: Image.Image, side: int) -> torch.Tensor:
    """(C, side/8, side/8) float32 on the CPU, the middle of the picture cut square."""
    square = ImageOps.fit(opaque(image), (side, side), Image.Resampling.LANCZOS)
    scale = 0.13025  # SDXL's: brings its latents near unit variance
    return vae.encode(to_tensor(square))[0].float().cpu() * scale
