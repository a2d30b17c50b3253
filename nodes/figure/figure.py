"""The node that turns a sweep into a labelled figure."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from comfy_api.latest import io, ui

from ...figures import FigureStyle, Placement
from ..graph_metadata import graph_metadata
from ..reports import report_shown
from ..sockets import GridSocket
from ..sweep.grid import Grid, sweep_shown
from .files import FILES, check_names, write_figure


class Figure(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MjesecFigure",
            display_name="Figure",
            category="Mjesec/figure",
            description="A labelled grid of a sweep's images as PNG, PDF and SVG fit for print; cells are never "
            "rescaled unless asked. The PNG carries the workflow.",
            search_aliases=["image grid", "labels", "montage", "print", "latex"],
            is_output_node=True,
            inputs=[
                GridSocket.Input("grid", tooltip="From Sweep."),
                io.String.Input(
                    "filename_prefix", default="mjesec/figure", tooltip="Folder and name below the output folder."
                ),
                io.String.Input("title", default="", tooltip="Stands above the figure; empty for none."),
                # on one line: a text field would take the node's room from the picture
                io.String.Input("caption", default="", tooltip="Stands below the figure; empty for none."),
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
                    tooltip="Width of a cell in pixels, at least 8; 0 keeps every pixel as it is.",
                ),
                io.Boolean.Input("tags", default=False, tooltip="(a), (b), … below the cells.", advanced=True),
                io.Int.Input(
                    "dpi",
                    default=300,
                    min=10,
                    max=2400,
                    tooltip="Dots per inch that the PNG states, where width_mm is 0.",
                    advanced=True,
                ),
                *_for_print(),
            ],
            outputs=[
                io.Image.Output("figure", tooltip="The figure as an image."),
                io.String.Output("path", tooltip="Where the PNG lies."),
                io.String.Output("latex", tooltip="A figure environment for each page of the PDF; empty without one."),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo, io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(
        cls, filename_prefix: str | None = None, cell_width: int | None = None, files: str | None = None,
        width_mm: float | None = None, font_size_pt: float | None = None, placement: str | None = None,
    ) -> bool | str:  # fmt: skip
        """Before anything is sampled; what comes by a wire is None here, and is checked when it is there."""
        try:
            Placement.parse(placement or "")
            FigureStyle(cell_width=cell_width or None, width_mm=width_mm or None, font_size_pt=font_size_pt or None)
            check_names(filename_prefix or "", files or FILES[0])
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls, grid: Grid, filename_prefix: str, columns: int, cell_width: int, files: str = FILES[0],
        manifest: bool = False, placement: str = "", **look: Any,
    ) -> io.NodeOutput:  # fmt: skip
        style = FigureStyle(
            columns=columns or None,
            cell_width=cell_width or None,
            placement=Placement.parse(placement),
            **_taken(look),
        )
        # a sweep's own record names its models and texts, and files of gigabytes are not read for nothing
        if manifest and "mode" not in grid.about:
            grid = replace(grid, about={**_came_from(cls), **grid.about})
        notes = graph_metadata(cls.hidden.prompt, cls.hidden.extra_pnginfo)
        written = write_figure(grid, style, filename_prefix, files=files, manifest=manifest, notes=notes)
        saved = ui.SavedImages(
            [ui.SavedResult(name, written.subfolder, io.FolderType.output) for name in written.pngs]
        ).as_dict()
        told = [*written.warnings, *([f"Written as well: {', '.join(written.others)}."] if written.others else [])]
        shown = {**saved, **sweep_shown(grid), **(report_shown("\n".join(told)) if told else {})}
        return io.NodeOutput(written.image, str(written.folder / written.pngs[0]), written.latex, ui=shown)


def _for_print() -> list[io.Input]:
    """What a figure on the screen does without; all of them may be left out."""
    return [
        io.Combo.Input(
            "files",
            options=list(FILES),
            default=FILES[0],
            optional=True,
            tooltip="PDF and SVG hold live text and every pixel; a LaTeX snippet comes with the PDF.",
            advanced=True,
        ),
        io.Boolean.Input(
            "manifest",
            default=False,
            optional=True,
            tooltip="Every cell's parameters, seconds and hashes beside the figure, as JSON and CSV.",
            advanced=True,
        ),
        io.Boolean.Input(
            "pages",
            default=False,
            optional=True,
            tooltip="A page for each value of the third and further axes; else they become outer headers.",
            advanced=True,
        ),
        io.Float.Input(
            "width_mm",
            default=0.0,
            min=0.0,
            max=5000.0,
            step=1,
            optional=True,
            tooltip="Printed width in mm, 10 or more, text set for it; 0 lets dpi decide. A4's text is about 160 wide.",
            advanced=True,
        ),
        io.Float.Input(
            "font_size_pt",
            default=0.0,
            min=0.0,
            max=200.0,
            step=0.5,
            optional=True,
            tooltip="Size of the headers in print, in points; 0 follows the cells.",
            advanced=True,
        ),
        io.Int.Input(
            "margin",
            default=-1,
            min=-1,
            max=4000,
            optional=True,
            tooltip="Pixels around the figure; -1 follows the font.",
            advanced=True,
        ),
        io.Int.Input(
            "gap",
            default=-1,
            min=-1,
            max=1000,
            optional=True,
            tooltip="Pixels between the cells; -1 follows the font.",
            advanced=True,
        ),
        # the last one, for saved graphs hold the widgets' values by their order
        io.String.Input(
            "placement",
            default="",
            optional=True,
            tooltip="Which axis goes where, outermost first: rows: Seed, CFG scale; pages: Sampler. Empty: the first "
            "along the columns, the second along the rows.",
            advanced=True,
        ),
    ]


def _taken(look: dict[str, Any]) -> dict[str, Any]:
    """The widgets' words for "as it comes" as the style's."""
    absent = {"width_mm": 0, "font_size_pt": 0, "margin": -1, "gap": -1}
    return {name: None if name in absent and value == absent[name] else value for name, value in look.items()}


def _came_from(cls: type[io.ComfyNode]) -> dict[str, Any]:
    """Texts, files and graph upstream; empty where the host does not tell the graph that runs."""
    prompt, own = cls.hidden.prompt, str(cls.hidden.unique_id)
    if not prompt or own not in prompt:
        return {}
    from ..sweep.provenance import provenance

    return provenance(prompt, own)


NODES = [Figure]
