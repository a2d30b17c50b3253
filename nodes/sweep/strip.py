"""The node that shows one sampling run at chosen steps: the noisy image and what the model takes it to be."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..folders import work_folder
from ..reports import report_shown
from ..sampling_inputs import sampling_inputs
from ..sockets import GridSocket


class DenoisingStrip(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MjesecDenoisingStrip",
            display_name="Denoising Strip",
            category="Mjesec/sweep",
            description="One sampling run seen from inside: at chosen steps the noisy image x_t and the model's "
            "prediction of the finished one, x_0. The run is ComfyUI's KSampler; its latent comes out as well.",
            search_aliases=["denoising process", "x0", "intermediate steps", "KSampler"],
            has_intermediate_output=True,
            inputs=[
                io.Model.Input("model", tooltip="With the LoRA, if there is to be one."),
                io.Conditioning.Input("positive", tooltip="What the image shows."),
                io.Conditioning.Input("negative", tooltip="What it must not show."),
                io.Latent.Input("latent_image", tooltip="One image to start from; an empty one for text to image."),
                io.Vae.Input("vae", tooltip="Decodes the frames."),
                *sampling_inputs("Number from which the initial noise is drawn: another one, another picture."),
                io.Float.Input(
                    "denoise", default=1.0, min=0.0, max=1.0, step=0.01, tooltip="How much of the latent is made anew."
                ),
                io.String.Input(
                    "at_steps",
                    default="0, 1, 2, 5, 10, 15, 20",
                    tooltip="After how many steps a frame is taken: 0 is the initial noise, the number of steps the "
                    "finished image. Lists and ranges as in Sweep Axis: 0-20(+4).",
                ),
                io.Combo.Input(
                    "show",
                    options=["both", "noisy image", "prediction"],
                    default="both",
                    tooltip="Rows of the strip: x_t, the prediction of x_0, or both.",
                ),
            ],
            outputs=[
                GridSocket.Output("grid", tooltip="For Figure: columns are steps, rows x_t and the prediction."),
                io.Latent.Output("latent", tooltip="The finished latent, as KSampler gives it."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, at_steps: str) -> bool | str:
        if at_steps is None:
            return True
        try:
            _steps(at_steps)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, at_steps: str, show: str, **run: Any) -> io.NodeOutput:
        from .cell_store import CellStore
        from .denoising import Run, strip

        grid, latent = strip(Run(**run), _steps(at_steps), show, CellStore(work_folder() / "cells"))
        text = f"{len(grid.results)} frames of one run of {run['steps']} steps."
        return io.NodeOutput(grid, latent, ui=report_shown(text))


def _steps(text: str) -> tuple[int, ...]:
    """The numbers of steps, each once, in order.

    Raises:
        ValueError: quotes the text.
    """
    from ...figures import Parameter, parse_values

    own = Parameter("at_steps", "Frames at steps", "int", 0, 10_000)
    return tuple(sorted({int(value) for value in parse_values(own, text)}))


NODES = [DenoisingStrip]
