"""Nodes that show a sweep otherwise without sampling it again: fewer values, details, differences, averages."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from comfy_api.latest import io
from PIL import Image

from ...figures import Axis, Cell, cells
from ...figures.select import select_axes, without_axis
from ...figures.views import Region, average, crop, difference, with_inset
from ..folders import work_folder
from ..sockets import GridSocket
from ..sweep.cell_store import CellStore
from ..sweep.grid import CellResult, Grid, Index
from ..sweep.pictures import keep_image

CATEGORY = "Mjesec/figure"
_SPREAD = "sample standard deviation"
Numbers = Mapping[Index, float | None]


def _grid_input() -> io.Input:
    return GridSocket.Input("grid", tooltip="From Sweep, or from another view.")


def _grid_output() -> list[io.Output]:
    return [GridSocket.Output("grid", tooltip="For Figure, or for one more view.")]


class SelectCells(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MjesecSelectCells",
            display_name="Select Cells",
            category=CATEGORY,
            description="Keeps some values of a sweep's axes, in the order in which they are written.",
            search_aliases=["subset", "reorder"],
            inputs=[
                _grid_input(),
                io.String.Input(
                    "keep",
                    default="CFG scale: 4, 7",
                    multiline=True,
                    tooltip="One axis a line: its label, a colon, and the values to keep. Axes not named stay whole.",
                ),
            ],
            outputs=_grid_output(),
        )

    @classmethod
    def execute(cls, grid: Grid, keep: str) -> io.NodeOutput:
        axes, places = select_axes(grid.axes, keep)
        return io.NodeOutput(_picked(grid, axes, [tuple(place) for place in places]))


def _picked(grid: Grid, axes: tuple, places: list[tuple[int, ...]]) -> Grid:
    """``places`` are the old indices of the new cells, in order."""
    known = {cell.index: cell for cell in cells(grid.axes)}
    results = tuple(grid.result(known[place]) for place in places)
    new = [cell.index for cell in cells(axes)]

    def moved(numbers: Numbers | None) -> Numbers | None:
        if numbers is None:
            return None
        return {index: numbers.get(place) for index, place in zip(new, places, strict=True)}

    numbers, spreads = moved(grid.numbers), moved(grid.spreads)
    return replace(grid, axes=axes, results=results, numbers=numbers, spreads=spreads, name="")


class CropCells(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        percent = {"min": 0.0, "max": 100.0, "step": 1.0}
        return io.Schema(
            node_id="MjesecCropCells",
            display_name="Crop Cells",
            category=CATEGORY,
            description="The same detail of every cell, pixel by pixel: cut out, or as an inset in the whole image.",
            search_aliases=["zoom", "detail", "inset"],
            inputs=[
                _grid_input(),
                io.Float.Input("x", default=25.0, **percent, tooltip="Left edge of the detail, % of the width."),
                io.Float.Input("y", default=25.0, **percent, tooltip="Top edge of the detail, % of the height."),
                io.Float.Input("width", default=25.0, **percent, tooltip="Of the detail, % of the width."),
                io.Float.Input("height", default=25.0, **percent, tooltip="Of the detail, % of the height."),
                io.Int.Input("enlarge", default=2, min=1, max=64, tooltip="Pixels that each pixel of it is drawn as."),
                io.Boolean.Input(
                    "inset", default=False, tooltip="Keep the whole image and put the detail into a corner."
                ),
            ],
            outputs=_grid_output(),
        )

    @classmethod
    def execute(
        cls, grid: Grid, x: float, y: float, width: float, height: float, enlarge: int, inset: bool
    ) -> io.NodeOutput:
        region, draw = Region(x, y, width, height), with_inset if inset else crop
        return io.NodeOutput(redrawn(grid, lambda cell, image: draw(image, region, enlarge)))


class CompareCells(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MjesecCompareCells",
            display_name="Difference to a Cell",
            category=CATEGORY,
            description="Every cell less a reference cell: grey where they agree, lighter or darker where they differ.",
            search_aliases=["difference", "compare", "reference"],
            inputs=[
                _grid_input(),
                io.Int.Input(
                    "reference",
                    default=1,
                    min=1,
                    max=1_000_000,
                    tooltip="The number of the cell in the manifest's order (the last axis counts fastest).",
                ),
                io.Float.Input(
                    "gain", default=2.0, min=0.1, max=100.0, step=0.5, tooltip="Times by which differences are raised."
                ),
            ],
            outputs=_grid_output(),
        )

    @classmethod
    def execute(cls, grid: Grid, reference: int, gain: float) -> io.NodeOutput:
        every = cells(grid.axes)
        if reference > len(every):
            raise ValueError(
                f"The reference is cell {reference}, but the grid has {len(every)}; give a smaller number."
            )
        other = grid.image(every[reference - 1])
        if other is None:
            raise ValueError(f"The reference, {every[reference - 1]}, has failed; choose another cell.")
        return io.NodeOutput(redrawn(grid, lambda cell, image: difference(image, other, gain)))


class AverageCells(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MjesecAverageCells",
            display_name="Average Cells",
            category=CATEGORY,
            description="Mean or spread along one axis, such as several seeds a cell: of the images, or of the "
            "numbers that were measured of them.",
            search_aliases=["mean", "spread", "standard deviation", "seeds"],
            inputs=[
                _grid_input(),
                io.String.Input("axis", default="Seed", tooltip="Label of the axis that is averaged away."),
                io.Combo.Input(
                    "show",
                    options=["mean", "spread"],
                    tooltip="spread: sample standard deviation (n - 1), of images four times as bright. The mean of "
                    "numbers is shown with it.",
                ),
            ],
            outputs=_grid_output(),
        )

    @classmethod
    def execute(cls, grid: Grid, axis: str, show: str) -> io.NodeOutput:
        axes, groups = without_axis(grid.axes, axis)
        if grid.numbers is not None:
            return io.NodeOutput(_of_numbers(grid, axes, groups, show, axis.strip()))
        known = {cell.index: cell for cell in cells(grid.axes)}
        results = tuple(_of_images(grid, [known[index] for index in group], show, axis) for group in groups)
        return io.NodeOutput(Grid(axes, results, grid.about))


def _of_images(grid: Grid, group: Sequence[Cell], show: str, axis: str) -> CellResult:
    """One cell out of several; it has failed where all of them have."""
    images = [image for cell in group if (image := grid.image(cell)) is not None]
    if not images:
        return CellResult("", grid.result(group[0]).error, 0.0)
    picture = average(images, spread=show == "spread")
    return keep_image(_store(), picture, 0.0, {"of": len(images), "show": f"{show} over {axis}"})


def _of_numbers(grid: Grid, axes: tuple[Axis, ...], groups: Sequence[Sequence[Index]], show: str, axis: str) -> Grid:
    means: dict[Index, float | None] = {}
    spreads: dict[Index, float | None] = {}
    for cell, group in zip(cells(axes), groups, strict=True):
        found = [number for index in group if (number := (grid.numbers or {}).get(index)) is not None]
        means[cell.index] = statistics.fmean(found) if found else None
        spreads[cell.index] = statistics.stdev(found) if len(found) > 1 else None
    results = tuple(CellResult("", "no image", 0.0) for _ in groups)
    if show == "spread":
        return Grid(axes, results, grid.about, numbers=spreads, measure=f"{grid.measure}, {_SPREAD} over {axis}")
    measure = f"{grid.measure}, mean ± {_SPREAD} over {axis}"
    return Grid(axes, results, grid.about, numbers=means, measure=measure, spreads=spreads)


def redrawn(grid: Grid, draw: Callable[[Cell, Image.Image], Image.Image]) -> Grid:
    """The grid with another image for every cell that has one."""
    results: list[CellResult] = []
    for cell in cells(grid.axes):
        old, image = grid.result(cell), grid.image(cell)
        new = None if image is None else keep_image(_store(), draw(cell, image), old.seconds, old.parameters or {})
        results.append(old if new is None else new)
    return replace(grid, results=tuple(results), numbers=None, spreads=None, name="")


def _store() -> CellStore:
    return CellStore(work_folder() / "cells")


NODES = [SelectCells, CropCells, CompareCells, AverageCells]
