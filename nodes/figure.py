"""The node that turns a sweep into a labelled figure."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io, ui

from ..figures import FigureStyle, draw_figure, save_png
from .grid import Grid
from .images import to_tensor
from .sockets import GridSocket


class Figure(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MjesecFigure",
            display_name="Figure",
            category="Mjesec/figure",
            description="A labelled grid of a sweep's images as a PNG fit for print; cells are never rescaled unless "
            "asked. The PNG carries the workflow.",
            search_aliases=["xy plot", "grid", "labels", "print"],
            is_output_node=True,
            inputs=[
                GridSocket.Input("grid", tooltip="From Sweep."),
                io.String.Input(
                    "filename_prefix", default="mjesec/figure", tooltip="Folder and name below the output folder."
                ),
                io.String.Input("title", default="", tooltip="Stands above the figure; empty for none."),
                io.String.Input(
                    "caption", default="", multiline=True, tooltip="Stands below the figure; empty for none."
                ),
                io.Combo.Input("theme", options=["light", "dark"], default="light", tooltip="Light for print."),
                io.Combo.Input("font", options=["sans", "serif"], default="sans", tooltip="Typeface of all text."),
                io.Boolean.Input("transpose", default=False, tooltip="Rows and columns change places."),
                io.Int.Input(
                    "columns",
                    default=0,
                    min=0,
                    max=1000,
                    tooltip="At most so many columns, the rest goes below; 0: no limit.",
                ),
                io.Int.Input(
                    "cell_width",
                    default=0,
                    min=0,
                    max=16384,
                    tooltip="Width of a cell in pixels; 0 keeps every pixel as it is.",
                ),
                io.Boolean.Input("tags", default=False, tooltip="(a), (b), … below the cells.", advanced=True),
                io.Int.Input(
                    "dpi", default=300, min=10, max=2400, tooltip="Dots per inch that the PNG states.", advanced=True
                ),
            ],
            outputs=[
                io.Image.Output("figure", tooltip="The figure as an image."),
                io.String.Output("path", tooltip="Where the PNG lies."),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def execute(cls, grid: Grid, filename_prefix: str, columns: int, cell_width: int, **look: Any) -> io.NodeOutput:
        style = FigureStyle(columns=columns or None, cell_width=cell_width or None, **look)
        picture = draw_figure(grid.axes, grid.image, style, grid.failed())
        image = to_tensor(picture)
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
            filename_prefix, folder_paths.get_output_directory(), picture.width, picture.height
        )
        file = f"{name}_{counter:05d}_.png"
        save_png(picture, Path(folder) / file, style.dpi, _metadata(cls))
        saved = ui.SavedImages([ui.SavedResult(file, subfolder, io.FolderType.output)])
        return io.NodeOutput(image, os.path.join(folder, file), ui=saved)


def _metadata(cls: type[io.ComfyNode]) -> dict[str, str]:
    """Prompt and workflow as the host's SaveImage stores them, so that the figure opens in the editor."""
    out = {}
    if cls.hidden.prompt is not None:
        out["prompt"] = json.dumps(cls.hidden.prompt)
    for key, value in (cls.hidden.extra_pnginfo or {}).items():
        out[key] = json.dumps(value)
    return out


NODES = [Figure]
