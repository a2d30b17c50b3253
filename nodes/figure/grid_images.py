"""Nodes between the cells of a grid and the host's images: one cell out of it, and cells set into an image."""

from __future__ import annotations

import torch
from comfy_api.latest import io
from PIL import Image

from ...figures import Cell, cells, opaque
from ...figures.select import select_axes
from ..images import to_pillow, to_tensor
from ..sockets import GridSocket
from ..sweep.grid import Grid
from .grid_views import CATEGORY, redrawn


class PickCell(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MjesecPickCell",
            display_name="Pick Cell",
            category=CATEGORY,
            description="One cell of a sweep as an image for any other node, such as an upscale or a second pass.",
            search_aliases=["grid to image", "extract", "cell"],
            inputs=[
                GridSocket.Input("grid", tooltip="From Sweep, or from a view of it."),
                io.String.Input(
                    "cell",
                    default="LoRA weight: 0.6",
                    multiline=True,
                    tooltip="One axis a line: its label, a colon and the value. An axis of one value may be left out.",
                ),
            ],
            outputs=[io.Image.Output("image", tooltip="The cell, pixel by pixel.")],
        )

    @classmethod
    def execute(cls, grid: Grid, cell: str) -> io.NodeOutput:
        axes, places = select_axes(grid.axes, cell)
        if len(places) != 1:
            open_axes = ", ".join(axis.label.strip() or axis.parameter for axis in axes if len(axis) > 1)
            raise ValueError(f"This names {len(places)} cells; give one value of each of: {open_axes}.")
        picked = next(each for each in cells(grid.axes) if each.index == tuple(places[0]))
        image = grid.image(picked)
        if image is None:
            raise ValueError(f"The cell {picked} has failed ({grid.result(picked).error}); pick another.")
        return io.NodeOutput(to_tensor(image))


class CompositeCells(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MjesecCompositeCells",
            display_name="Composite Cells",
            category=CATEGORY,
            description="Every cell inside a mask, and an image outside of it: what was inpainted in the image that it "
            "was painted into, which keeps its own pixels everywhere else.",
            search_aliases=["inpainting", "mask", "paste"],
            inputs=[
                GridSocket.Input("grid", tooltip="From Sweep, or from a view of it."),
                io.Image.Input("image", tooltip="What stands outside the mask; of the cells' size."),
                io.Mask.Input("mask", tooltip="1 takes the cell's pixels, 0 the image's, between them both by shares."),
            ],
            outputs=[GridSocket.Output("grid", tooltip="For Figure, or for a view.")],
        )

    @classmethod
    def execute(cls, grid: Grid, image: torch.Tensor, mask: torch.Tensor) -> io.NodeOutput:
        around, inside = opaque(to_pillow(image[0])), _as_levels(mask)
        if inside.size != around.size:
            raise ValueError(f"The image is {_size(around)} and its mask {_size(inside)}; give both one size.")

        def set_in(cell: Cell, own: Image.Image) -> Image.Image:
            if own.size != around.size:
                raise ValueError(f"The cell {cell} is {_size(own)} and the image {_size(around)}; give both one size.")
            return Image.composite(opaque(own), around, inside)

        return io.NodeOutput(redrawn(grid, set_in))


def _as_levels(mask: torch.Tensor) -> Image.Image:
    """(1, H, W) or (H, W) to 8-bit grey."""
    one = mask[0] if mask.ndim == 3 else mask
    return to_pillow(one[:, :, None].repeat(1, 1, 3)).convert("L")


def _size(image: Image.Image) -> str:
    return f"{image.width} × {image.height} pixels"


NODES = [PickCell, CompositeCells]
