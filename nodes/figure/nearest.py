"""The node that looks for the training image that each cell resembles most: is the LoRA painting from memory?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from comfy_api.latest import io

from ..folders import work_folder
from ..progress import NodeWatcher
from ..reports import report_shown
from ..sockets import DatasetSocket, GridSocket, TrainSettingsSocket
from ..sweep.grid import Grid
from .measure import report

_MEASURE = "Distance to the nearest training image (RMS of the latents)"


class NearestTrainingImage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MjesecNearestTrainingImage",
            display_name="Nearest Training Image",
            category="Mjesec/figure",
            description="For every cell the training image that is nearest to it in the VAE's latent space, and how "
            "near: a LoRA that repeats its training images is overfitted.",
            search_aliases=["overfitting", "memorisation", "nearest neighbour", "latent distance"],
            has_intermediate_output=True,
            not_idempotent=True,
            inputs=[
                GridSocket.Input("grid", tooltip="From Sweep."),
                DatasetSocket.Input("dataset", tooltip="What the LoRA was trained on, with the images held out of it."),
                io.Vae.Input("vae", tooltip="The VAE of the checkpoint; distances are between its latents."),
                io.Int.Input(
                    "compare_at",
                    default=256,
                    min=64,
                    max=2048,
                    step=8,
                    tooltip="Pixels a side: cells and training images are cut square and scaled to this before they "
                    "are compared. Larger is slower and minds finer detail.",
                ),
                TrainSettingsSocket.Input(
                    "settings",
                    optional=True,
                    tooltip="Those of the training: they tell which images were held out of it and are left out here.",
                ),
            ],
            outputs=[
                GridSocket.Output("numbers", tooltip="Distance to the nearest training image, for Figure."),
                GridSocket.Output("nearest", tooltip="The nearest training image of each cell, for another Figure."),
                io.String.Output("report", tooltip="Least and greatest distance, and each cell's file."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, grid: Grid, dataset: Any, vae: Any, compare_at: int, settings: Any = None) -> io.NodeOutput:
        from ...figures import cells
        from ..sweep.cell_store import CellStore
        from .neighbours import nearest_images

        if settings is not None and settings.validation_images:
            dataset, _ = dataset.split(settings.validation_images, settings.seed)
        found = nearest_images(grid, dataset, vae, compare_at, NodeWatcher(cls.hidden.unique_id))
        numbers = {index: near.distance for index, near in found.items()}
        measured = replace(grid, numbers=numbers, spreads=None, measure=_MEASURE)
        store = CellStore(work_folder() / "cells")
        results = tuple(
            near.as_cell(store, grid.result(cell).seconds) if (near := found.get(cell.index)) else grid.result(cell)
            for cell in cells(grid.axes)
        )
        files = [f"{cell}: {found[cell.index].name}" for cell in cells(grid.axes) if cell.index in found]
        text = "\n".join([report(replace(measured, numbers={**_none(grid), **numbers})), *files[:50]])
        nearest = replace(grid, results=results, numbers=None, spreads=None, name="")
        return io.NodeOutput(measured, nearest, text, ui=report_shown(text))


def _none(grid: Grid) -> dict[tuple[int, ...], None]:
    from ...figures import cells

    return dict.fromkeys(cell.index for cell in cells(grid.axes))


NODES = [NearestTrainingImage]
