"""The node that renders a night scene and the place in it where a Moon is to be."""

from __future__ import annotations

import torch
from comfy_api.latest import io, ui

from ...trainer.moons.night_scene import Disc, night_scene
from ..images import to_tensor
from ..sampling_inputs import size_inputs

CATEGORY = "Mjesec/figure"


class NightScene(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MjesecNightScene",
            display_name="Night Scene",
            category=CATEGORY,
            description="A moonless night over pines, rendered, and the mask of a disc in its sky: something to paint "
            "a Moon into, at any size and with no file and no licence to ask for.",
            search_aliases=["inpainting", "pines", "mask"],
            has_intermediate_output=True,
            inputs=[
                *size_inputs("of the image and its mask in pixels"),
                io.Int.Input(
                    "seed",
                    default=3,
                    min=0,
                    max=0xFFFFFFFF,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="Trees, hills, clouds and stars; the same seed renders the same scene.",
                ),
                io.Float.Input("x", default=50.0, min=0, max=100, step=1, tooltip="Disc's centre, % of the width."),
                io.Float.Input("y", default=27.0, min=0, max=100, step=1, tooltip="Disc's centre, % of the height."),
                io.Float.Input(
                    "diameter", default=34.0, min=1, max=200, step=1, tooltip="Disc's, % of the shorter side."
                ),
            ],
            outputs=[
                io.Image.Output("scene", tooltip="The night without a Moon."),
                io.Mask.Output("mask", tooltip="1 inside the disc, 0 outside."),
            ],
        )

    @classmethod
    def execute(cls, width: int, height: int, seed: int, x: float, y: float, diameter: float) -> io.NodeOutput:
        scene = to_tensor(night_scene(width, height, seed))
        mask = torch.from_numpy(Disc(x, y, diameter).mask(width, height))[None]
        return io.NodeOutput(scene, mask, ui=ui.PreviewImage(scene, cls=cls))


NODES = [NightScene]
