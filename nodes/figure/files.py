"""A grid's figure as files: pages laid out once, then written as PNG, PDF, SVG, LaTeX and manifests."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import folder_paths
import torch
from PIL import Image

from ...figures import (
    Cell,
    FigureStyle,
    Layout,
    by_index,
    cells,
    check_latex_name,
    latex_snippet,
    plan_heat_map,
    plan_pages,
    render,
    save_pdf,
    save_png,
    save_svg,
    write_manifest_csv,
    write_manifest_json,
)
from ...figures.files import free_stem, replacing
from ...figures.values import quoted
from ..images import MOST_WIRED_PIXELS, to_tensor
from ..sweep.grid import Grid, Index

_LINES = 256
FILES = ("PNG", "PNG, PDF", "PNG, PDF, SVG")
_FILLED_IN_BY_HOST = re.compile("%(width|height|year|month|day|hour|minute|second)%")


@dataclass
class Written:
    """What a figure left: its PNG files below ``subfolder``, the pages as one batch, the LaTeX that includes it."""

    folder: Path
    subfolder: str
    pngs: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    image: torch.Tensor | None = None
    latex: str = ""
    warnings: tuple[str, ...] = ()


def check_names(prefix: str, files: str) -> None:
    """That the files can lie where `prefix` says, and that LaTeX can read their names where it has to.

    Raises:
        ValueError: quotes what cannot be.
    """
    if files not in FILES:
        raise ValueError(f"The files of a figure are {' or '.join(map(quoted, FILES))}, not {quoted(files)}.")
    root, place = folder_paths.get_output_directory(), os.path.normpath(_FILLED_IN_BY_HOST.sub("0", prefix))
    if not folder_paths.is_within_directory(root, os.path.join(root, os.path.dirname(place))):
        raise ValueError(f'The filename_prefix "{prefix}" leads out of the output folder; give a name below it.')
    if "PDF" in files:
        check_latex_name(f"{os.path.basename(place)}_00001.pdf")


def write_figure(
    grid: Grid, style: FigureStyle, prefix: str, *, files: str, manifest: bool, notes: Mapping[str, str]
) -> Written:
    """Draw the grid's pages and write them under numbered names; ``notes`` go into every PNG.

    Raises:
        OSError: names the file or folder that cannot be written.
        ValueError: a cell's image is gone, or `check_names` refuses.
    """
    check_names(prefix, files)
    pages = _Pages(grid)
    layouts, image_at = pages.laid_out(style)
    written, named, first = _place(prefix, layouts[0])
    batch = _Batch(layouts)
    with free_stem(written.folder, named, first) as stem:
        for number, layout in enumerate(layouts, 1):
            name = f"{stem}_.png" if len(layouts) == 1 else f"{stem}_{number}_.png"
            page = render(layout, image_at)
            save_png(page, written.folder / name, layout.dpi, notes)
            written.pngs.append(name)
            batch.put(number - 1, page)
            del page
            if "SVG" in files:
                save_svg(layout, image_at, written.folder / f"{name[:-5]}.svg")
                written.others.append(f"{name[:-5]}.svg")
        if "PDF" in files:
            _write_for_print(written, stem, pages, style)
        if manifest:
            _write_manifests(written, stem, grid)
    written.image = batch.image
    warnings = [line for layout in layouts for line in layout.warnings]
    written.warnings = tuple(dict.fromkeys([*warnings, *batch.warnings]))
    return written


class _Pages:
    """A grid's pages in any style."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def laid_out(self, style: FigureStyle) -> tuple[Sequence[Layout], Callable[[Index], Image.Image | None]]:
        """The pages and what gives each cell's image; measured numbers are headed by what they are."""
        grid = self._grid
        if grid.numbers is not None:
            headed = replace(style, title=style.title or grid.measure)
            return plan_heat_map(grid.axes, grid.numbers, headed, spreads=grid.spreads)
        return plan_pages(grid.axes, self._sizes, style, grid.failed()), by_index(grid.axes, grid.image)

    @cached_property
    def _sizes(self) -> dict[Index, tuple[int, int] | None]:
        return {cell.index: _size(self._grid, cell) for cell in cells(self._grid.axes)}


def _size(grid: Grid, cell: Cell) -> tuple[int, int] | None:
    """(width, height) in px as the file's first bytes tell it: no picture is decoded."""
    result = grid.result(cell)
    if result.error:
        return None
    try:
        with Image.open(result.path) as image:
            return image.size
    except (OSError, SyntaxError):
        # says what is wrong with the file
        return None if (image := grid.image(cell)) is None else image.size


def _place(prefix: str, layout: Layout) -> tuple[Written, str, int]:
    """Where the files go, what their names begin with, and the first number that may be free."""
    root = folder_paths.get_output_directory()
    try:
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
            prefix, root, layout.width, layout.height
        )
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(f"Could not make a folder for '{prefix}' in '{root}' ({reason}); change the prefix.") from error
    return Written(Path(folder), subfolder), name, counter


def _write_for_print(written: Written, stem: str, pages: _Pages, style: FigureStyle) -> None:
    """The PDF without the caption: LaTeX sets that in the document's own type, numbers it and lists it."""
    layouts, image_at = pages.laid_out(replace(style, caption=""))
    save_pdf(layouts, image_at, written.folder / f"{stem}.pdf")
    written.latex = latex_snippet(
        f"{stem}.pdf",
        caption=style.caption,
        label=f"fig:{_label(stem)}",
        width_mm=style.width_mm,
        pages=len(layouts),
    )
    with replacing(written.folder / f"{stem}.tex") as file:
        file.write(written.latex.encode("utf-8"))
    written.others += [f"{stem}.pdf", f"{stem}.tex"]


def _label(stem: str) -> str:
    return "".join(char if char.isalnum() else "-" for char in stem)


def _write_manifests(written: Written, stem: str, grid: Grid) -> None:
    told = json.loads(json.dumps(grid.manifest(), default=str))
    write_manifest_json(told, written.folder / f"{stem}.json")
    write_manifest_csv(told, written.folder / f"{stem}.csv")
    written.others += [f"{stem}.json", f"{stem}.csv"]


class _Batch:
    """The pages as the host's images, (N, H, W, 3) float32; smaller ones stand in the top left corner on white.

    A wire holds 12 bytes a pixel: pages of more than 64 megapixels in all come out scaled down. The files do not.
    """

    def __init__(self, layouts: Sequence[Layout]) -> None:
        height, width = max(layout.height for layout in layouts), max(layout.width for layout in layouts)
        self.scale = min(1.0, (MOST_WIRED_PIXELS / (len(layouts) * height * width)) ** 0.5)
        self.image = torch.ones(len(layouts), *(max(1, int(side * self.scale)) for side in (height, width)), 3)

    def put(self, number: int, page: Image.Image) -> None:
        if self.scale < 1:
            size = tuple(max(1, int(side * self.scale)) for side in page.size)
            page = page.resize(size, Image.Resampling.BOX)
        # some lines at a time, or a second copy in floats would stand beside the first
        for top in range(0, page.height, _LINES):
            part = page.crop((0, top, page.width, min(top + _LINES, page.height)))
            self.image[number, top : top + part.height, : page.width] = to_tensor(part)[0]

    @property
    def warnings(self) -> tuple[str, ...]:
        if self.scale == 1:
            return ()
        return (f"The figure is large: its image output is scaled to {self.scale:.0%}, its files are not.",)
