"""The chart of a training's loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io, ui

from ...figures import Chart, ChartStyle, loss_chart
from ...figures.files import free_stem
from ..images import to_tensor
from ..reports import report_shown
from ..sockets import LossMap

_FILES = {"image alone": (), "PDF": ("pdf",), "SVG": ("svg",), "PDF, SVG": ("pdf", "svg")}
_LANGUAGES = {"English": "en", "Hrvatski": "hr"}


class LossChart(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MjesecLossChart",
            display_name="Loss Chart",
            category="Mjesec/training",
            description="The loss of every step with a running mean, and held-out losses, on the screen or for print; "
            "also of ComfyUI's trainer.",
            search_aliases=["loss graph", "training curve"],
            is_output_node=True,
            inputs=[
                LossMap.Input("loss_map", tooltip="From Train SDXL LoRA or Train LoRA."),
                io.String.Input("title", default="", tooltip="Stands above the chart; empty for none."),
                io.Int.Input("width", default=960, min=320, max=4096, tooltip="Width of the chart in pixels."),
                io.Int.Input("height", default=540, min=240, max=4096, tooltip="Height of the chart in pixels."),
                io.Int.Input(
                    "smoothing",
                    default=0,
                    min=0,
                    max=100_000,
                    tooltip="Steps of the running mean; 0 chooses by length.",
                ),
                io.Combo.Input("theme", options=["light", "dark"], default="light", tooltip="Light for print."),
                *_for_print(),
            ],
            outputs=[io.Image.Output("chart", tooltip="The chart as an image.")],
        )

    @classmethod
    def execute(
        cls, loss_map: dict[str, Any], title: str, width: int, height: int, smoothing: int, theme: str,
        files: str = "image alone", filename_prefix: str = "mjesec/loss", width_mm: float = 0.0, font: str = "sans",
        language: str = "English",
    ) -> io.NodeOutput:  # fmt: skip
        style = ChartStyle(
            title=title,
            smoothing=smoothing or None,
            width_px=width,
            height_px=height,
            width_mm=width_mm or None,
            theme=theme,  # type: ignore[arg-type]
            font=font,  # type: ignore[arg-type]
            language=_LANGUAGES[language],  # type: ignore[arg-type]
        )
        kind = str(loss_map.get("kind", ""))
        chart = loss_chart(loss_map["loss"], validation=loss_map.get("validation") or (), kind=kind, style=style)
        image = to_tensor(chart.image())
        shown = ui.PreviewImage(image, cls=cls).as_dict()
        if written := _written(chart, filename_prefix, _FILES[files], style):
            shown |= report_shown(f"Written: {', '.join(written)}.")
        return io.NodeOutput(image, ui=shown)


def _for_print() -> list[io.Input]:
    """What a chart on the screen does without; all of them may be left out."""
    return [
        io.Combo.Input(
            "files",
            options=list(_FILES),
            default="image alone",
            optional=True,
            advanced=True,
            tooltip="Files with live text beside the image, in the output folder.",
        ),
        io.String.Input(
            "filename_prefix",
            default="mjesec/loss",
            optional=True,
            advanced=True,
            tooltip="Folder and name of the files below the output folder.",
        ),
        io.Float.Input(
            "width_mm",
            default=0.0,
            min=0.0,
            max=5000.0,
            step=1,
            optional=True,
            advanced=True,
            tooltip="Printed width in mm, at least 40, text set for it; 0: for a screen. The text of A4 is about 160 "
            "wide.",
        ),
        io.Combo.Input(
            "font",
            options=["sans", "serif"],
            default="sans",
            optional=True,
            advanced=True,
            tooltip="Typeface of all text.",
        ),
        io.Combo.Input(
            "language",
            options=list(_LANGUAGES),
            default="English",
            optional=True,
            advanced=True,
            tooltip="Language of the axes and the legend.",
        ),
    ]


def _written(chart: Chart, prefix: str, endings: tuple[str, ...], style: ChartStyle) -> list[str]:
    """The files' names below the output folder."""
    if not endings:
        return []
    folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
        prefix, folder_paths.get_output_directory(), style.width_px, style.height_px
    )
    with free_stem(Path(folder), name, counter) as stem:
        names = [f"{stem}.{ending}" for ending in endings]
        for each in names:
            chart.write(Path(folder) / each)
    return [f"{subfolder}/{each}".lstrip("/") for each in names]


NODES = [LossChart]
