"""The node that says which images a training draws on its way."""

from __future__ import annotations

from dataclasses import dataclass

from comfy_api.latest import io

from ..sampling_inputs import sampling_inputs, size_inputs
from ..sockets import TrainingSamplesSocket
from ..sweep.shot import Shot

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
                *size_inputs("in pixels", most=4096),
                *sampling_inputs(
                    "The same noise at every step, so that the images can be compared.",
                    most_steps=1000,
                    sampler="euler",
                    scheduler="normal",
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
