"""The node that puts images of any origin into a grid, so that Figure can lay them out and label them."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ...figures import UNLABELLED, Axis
from ..folders import work_folder
from ..sockets import GridSocket
from ..sweep.grid import Grid

PARAMETER = "image"


class AddToGrid(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MjesecAddToGrid",
            display_name="Add to Grid",
            category="Mjesec/figure",
            description="Puts an image under a name into a grid for Figure. Chain several to set images of any origin "
            "and size side by side.",
            search_aliases=["label images", "compare", "side by side"],
            inputs=[
                io.Image.Input("image", tooltip="One image, or a batch, whose images are numbered."),
                io.String.Input("name", default="image", tooltip="Stands above it in the figure; empty for none."),
                GridSocket.Input("grid", optional=True, tooltip="From another Add to Grid; this image comes after."),
            ],
            outputs=[GridSocket.Output("grid", tooltip="For Figure, or for one more Add to Grid.")],
        )

    @classmethod
    def execute(cls, image: torch.Tensor, name: str, grid: Grid | None = None) -> io.NodeOutput:
        from ..images import to_pillow
        from ..sweep.cell_store import CellStore
        from ..sweep.pictures import keep_image

        axis = _own_axis(grid)
        store = CellStore(work_folder() / "cells")
        names = [name] if len(image) == 1 else [f"{name} {number}".strip() for number in range(1, len(image) + 1)]
        results = [
            keep_image(store, to_pillow(one), 0.0, {"name": each}) for one, each in zip(image, names, strict=True)
        ]
        before = () if grid is None else grid.results
        every = (*(axis.values if axis else ()), *names)
        together = Axis(PARAMETER, every, UNLABELLED, tuple(map(str, every)))
        return io.NodeOutput(Grid((together,), (*before, *results), {}))


def _own_axis(grid: Grid | None) -> Axis | None:
    """The names that are in the grid already.

    Raises:
        ValueError: the grid is a sweep.
    """
    if grid is None:
        return None
    if [axis.parameter for axis in grid.axes] != [PARAMETER]:
        raise ValueError("The grid comes from a sweep, which has axes of its own; connect one from Add to Grid.")
    return grid.axes[0]


NODES = [AddToGrid]
