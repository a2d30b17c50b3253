"""A grid's figure as files: pages laid out once, then written as PNG, PDF, SVG, LaTeX and manifests."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import folder_paths
import torch
from PIL import Image

from ..figures import (
    FigureStyle,
    Layout,
    by_index,
    image_sizes,
    latex_snippet,
    plan_figure,
    plan_heat_map,
    plan_pages,
    render,
    save_pdf,
    save_png,
    save_svg,
    write_manifest_csv,
    write_manifest_json,
)
from .grid import Grid, Index
from .images import to_tensor

FILES = ("PNG", "PNG, PDF", "PNG, PDF, SVG")


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


def write_figure(
    grid: Grid, style: FigureStyle, prefix: str, *, files: str, paged: bool, manifest: bool, notes: Mapping[str, str]
) -> Written:
    """Draw the grid's pages and write them under numbered names; ``notes`` go into every PNG.

    Raises:
        OSError: names the file or folder that cannot be written.
        ValueError: a cell's image is gone.
    """
    layouts, image_at = laid_out(grid, style, paged=paged)
    written, stem = _place(prefix, layouts[0])
    pages = []
    for number, layout in enumerate(layouts, 1):
        name = f"{stem}_.png" if len(layouts) == 1 else f"{stem}_{number}_.png"
        page = render(layout, image_at)
        save_png(page, written.folder / name, layout.dpi, notes)
        written.pngs.append(name)
        pages.append(to_tensor(page))
        if "SVG" in files:
            save_svg(layout, image_at, written.folder / f"{name[:-5]}.svg")
            written.others.append(f"{name[:-5]}.svg")
    if "PDF" in files:
        _write_for_print(written, stem, layouts, image_at)
    if manifest:
        _write_manifests(written, stem, grid)
    written.image = _batch(pages)
    written.warnings = tuple(dict.fromkeys(line for layout in layouts for line in layout.warnings))
    return written


def laid_out(
    grid: Grid, style: FigureStyle, *, paged: bool
) -> tuple[list[Layout], Callable[[Index], Image.Image | None]]:
    """The pages and what gives each cell's image; measured numbers become one page, headed by what they are."""
    if grid.numbers is not None:
        layout, image_at = plan_heat_map(grid.axes, grid.numbers, replace(style, title=style.title or grid.measure))
        return [layout], image_at
    sizes = image_sizes(grid.axes, grid.image)
    if paged:
        layouts = list(plan_pages(grid.axes, sizes, style, grid.failed()))
    else:
        layouts = [plan_figure(grid.axes, sizes, style, grid.failed())]
    return layouts, by_index(grid.axes, grid.image)


def _place(prefix: str, layout: Layout) -> tuple[Written, str]:
    root = folder_paths.get_output_directory()
    try:
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
            prefix, root, layout.width, layout.height
        )
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(f"Could not make a folder for '{prefix}' in '{root}' ({reason}); change the prefix.") from error
    return Written(Path(folder), subfolder), f"{name}_{counter:05d}"


def _write_for_print(
    written: Written, stem: str, layouts: list[Layout], image_at: Callable[[Index], Image.Image | None]
) -> None:
    style = layouts[0].style
    save_pdf(layouts, image_at, written.folder / f"{stem}.pdf")
    written.latex = latex_snippet(
        f"{stem}.pdf", caption=style.caption, label=f"fig:{_label(stem)}", width_mm=style.width_mm
    )
    with open(written.folder / f"{stem}.tex", "w", encoding="utf-8") as file:
        file.write(written.latex)
    written.others += [f"{stem}.pdf", f"{stem}.tex"]


def _label(stem: str) -> str:
    return "".join(char if char.isalnum() else "-" for char in stem)


def _write_manifests(written: Written, stem: str, grid: Grid) -> None:
    told = json.loads(json.dumps(grid.manifest(), default=str))
    write_manifest_json(told, written.folder / f"{stem}.json")
    write_manifest_csv(told, written.folder / f"{stem}.csv")
    written.others += [f"{stem}.json", f"{stem}.csv"]


def _batch(pages: list[torch.Tensor]) -> torch.Tensor:
    """(N, H, W, 3); smaller pages stand in the top left corner on white."""
    height, width = max(page.shape[1] for page in pages), max(page.shape[2] for page in pages)
    batch = torch.ones(len(pages), height, width, 3)
    for number, page in enumerate(pages):
        batch[number, : page.shape[1], : page.shape[2]] = page[0]
    return batch
