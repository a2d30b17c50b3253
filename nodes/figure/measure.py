"""The node that measures every cell of a grid, for a heat map."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from comfy_api.latest import io

from ...figures import Cell, cells
from ...figures.measures import MEASURES, UNITS, distance
from ..reports import report_shown
from ..sockets import GridSocket
from ..sweep.grid import Grid


class MeasureCells(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MjesecMeasureCells",
            display_name="Measure Cells",
            category="Mjesec/figure",
            description="One number for every cell of a sweep: saturation, contrast, burnt highlights, distance to a "
            "reference cell, CLIP score, seconds. Figure draws them as a heat map with the sweep's own headers.",
            search_aliases=["heat map", "metrics", "saturation", "contrast"],
            has_intermediate_output=True,
            inputs=[
                GridSocket.Input("grid", tooltip="From Sweep."),
                io.Combo.Input("measure", options=list(UNITS), tooltip="What is measured of each cell."),
                io.Int.Input(
                    "reference",
                    default=1,
                    min=1,
                    max=1_000_000,
                    tooltip="For distance: the number of the cell that the others are compared to, in the manifest's "
                    "order (the last axis counts fastest).",
                ),
                io.ClipVision.Input(
                    "clip_vision", optional=True, tooltip="For CLIP score: ViT-bigG where the CLIP is SDXL's."
                ),
                io.Clip.Input("clip", optional=True, tooltip="For CLIP score: reads the prompts; without the LoRA."),
            ],
            outputs=[
                GridSocket.Output("numbers", tooltip="For Figure, which draws them as a heat map."),
                io.String.Output("report", tooltip="Least and greatest value and their cells."),
            ],
        )

    @classmethod
    def execute(
        cls, grid: Grid, measure: str, reference: int, clip_vision: Any = None, clip: Any = None
    ) -> io.NodeOutput:
        every = cells(grid.axes)
        if reference > len(every):
            raise ValueError(
                f"The reference is cell {reference}, but the grid has {len(every)}; give a smaller number."
            )
        if measure == "CLIP score":
            from .clip_score import clip_scores

            numbers = clip_scores(grid, clip_vision, clip)
        else:
            numbers = {cell.index: _number(grid, cell, measure, every[reference - 1]) for cell in every}
        label = f"{measure[0].upper()}{measure[1:]} ({UNITS[measure]})"
        measured = replace(grid, numbers=numbers, spreads=None, measure=label)
        text = report(measured)
        return io.NodeOutput(measured, text, ui=report_shown(text))


def _number(grid: Grid, cell: Cell, measure: str, reference: Cell) -> float | None:
    if grid.result(cell).error:
        return None
    if measure == "seconds":
        return grid.result(cell).seconds
    image = grid.image(cell)
    if image is None:
        return None
    if measure != "distance":
        return MEASURES[measure](image)
    other = grid.image(reference)
    if other is None:
        raise ValueError(f"The reference, {reference}, has failed and cannot be compared to; choose another cell.")
    return distance(image, other)


def report(grid: Grid) -> str:
    """Least and greatest number and where they are."""
    found = {cell: number for cell in cells(grid.axes) if (number := (grid.numbers or {})[cell.index]) is not None}
    if not found:
        return f"{grid.measure}: nothing could be measured."
    least, most = min(found, key=found.__getitem__), max(found, key=found.__getitem__)
    return (
        f"{grid.measure}: least {found[least]:.4g} ({least}), greatest {found[most]:.4g} ({most}), "
        f"mean {sum(found.values()) / len(found):.4g}."
    )


NODES = [MeasureCells]
