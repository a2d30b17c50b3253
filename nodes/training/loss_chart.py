"""The chart of a training's loss."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ...figures import loss_chart
from ..images import to_tensor
from ..sockets import LossMap


class LossChart(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MjesecLossChart",
            display_name="Loss Chart",
            category="Mjesec/training",
            description="The loss of every step with a running mean, and held-out losses; also of ComfyUI's trainer.",
            search_aliases=["loss graph", "training curve"],
            has_intermediate_output=True,
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
            ],
            outputs=[io.Image.Output("chart", tooltip="The chart as an image.")],
        )

    @classmethod
    def execute(
        cls, loss_map: dict[str, list[Any]], title: str, width: int, height: int, smoothing: int, theme: str
    ) -> io.NodeOutput:
        chart = loss_chart(
            loss_map["loss"],
            validation=loss_map.get("validation"),
            title=title,
            smoothing=smoothing or None,
            width_px=width,
            height_px=height,
            theme=theme,
        )
        image = to_tensor(chart)
        return io.NodeOutput(image, ui=ui.PreviewImage(image, cls=cls))


NODES = [LossChart]
