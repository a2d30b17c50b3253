"""The node that says which images a training draws on its way."""

from __future__ import annotations

from dataclasses import dataclass

import comfy.samplers
from comfy_api.latest import io

from .shot import Shot
from .sockets import TrainingSamplesSocket

_MOST_PROMPTS = 16


@dataclass(frozen=True)
class TrainingSamples:
    """``shots`` are drawn every ``every`` optimizer steps (0: only when asked for), the LoRA at its shots' weight."""

    shots: tuple[Shot, ...]
    every: int


class SampleOptions(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MjesecTrainingSamples",
            display_name="Training Samples",
            category="Mjesec/training",
            description="Images that Train SDXL LoRA draws on its way with the LoRA as it then is, through ComfyUI's "
            "own sampler, exactly as KSampler would.",
            search_aliases=["sample images during training", "preview", "sample prompts"],
            inputs=[
                io.String.Input(
                    "prompts",
                    multiline=True,
                    default="moon",
                    tooltip=f"One prompt a line, at most {_MOST_PROMPTS}; empty lines do not count.",
                ),
                io.String.Input("negative", multiline=True, default="", tooltip="The negative prompt of all of them."),
                io.Int.Input(
                    "every",
                    default=100,
                    min=0,
                    max=1_000_000,
                    tooltip="Optimizer steps between samples; 0 draws only when asked to (sample now).",
                ),
                io.Int.Input("width", default=1024, min=64, max=4096, step=8, tooltip="Width in pixels."),
                io.Int.Input("height", default=1024, min=64, max=4096, step=8, tooltip="Height in pixels."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="The same noise at every step, so that the images can be compared.",
                ),
                io.Int.Input(
                    "steps",
                    default=20,
                    min=1,
                    max=1000,
                    tooltip="Sampling steps of each image: more take longer and change it less and less.",
                ),
                io.Float.Input(
                    "cfg",
                    default=7.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="CFG scale: how strictly the prompt counts.",
                ),
                io.Combo.Input(
                    "sampler", options=comfy.samplers.SAMPLER_NAMES, default="euler", tooltip="ComfyUI's sampler."
                ),
                io.Combo.Input(
                    "scheduler",
                    options=comfy.samplers.SCHEDULER_NAMES,
                    default="normal",
                    tooltip="ComfyUI's schedule of noise levels.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.05,
                    tooltip="Weight of the LoRA on U-Net and text encoders: 1 as trained.",
                ),
            ],
            outputs=[TrainingSamplesSocket.Output("samples", tooltip="For Train SDXL LoRA.")],
        )

    @classmethod
    def execute(cls, prompts: str, every: int, strength: float, **values: object) -> io.NodeOutput:
        lines = [line.strip() for line in prompts.splitlines() if line.strip()]
        if not lines:
            raise ValueError("prompts is empty; write one prompt a line, or disconnect Training Samples.")
        if len(lines) > _MOST_PROMPTS:
            raise ValueError(f"prompts has {len(lines)} lines; at most {_MOST_PROMPTS} are drawn, so take some out.")
        shots = tuple(
            Shot(prompt=line, denoise=1.0, lora_weight_model=strength, lora_weight_clip=strength, **values)  # type: ignore[arg-type]
            for line in lines
        )
        return io.NodeOutput(TrainingSamples(shots, every))


NODES = [SampleOptions]
