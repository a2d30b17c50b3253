"""The node that says what a training may spend: memory or time."""

from __future__ import annotations

from comfy_api.latest import io

from ...trainer.settings.training import PROFILES, TrainSettings
from ..sockets import TrainSettingsSocket
from .changes import changed
from .settings import CATEGORY


class MemoryOptions(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MjesecMemoryOptions",
            display_name="Memory Options",
            category=CATEGORY,
            description="What a training spares: memory or time. What is learnt is the same but for rounding.",
            search_aliases=["low vram", "out of memory", "gradient checkpointing", "torch compile", "cuda graphs"],
            has_intermediate_output=True,
            inputs=[
                TrainSettingsSocket.Input("settings", tooltip="From Training Settings or another options node."),
                io.Combo.Input(
                    "profile",
                    options=list(PROFILES),
                    default="auto",
                    tooltip="auto measures what a batch keeps in memory and turns on as much gradient checkpointing as "
                    "it takes to fit; low turns all of it on, fast none, unless Training Settings has it on.",
                ),
                io.Boolean.Input(
                    "compile_blocks",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="torch.compile of the transformer blocks: minutes before the first step, then shorter "
                    "ones. Needs a C++ compiler, on a GPU also Triton.",
                ),
                io.Boolean.Input(
                    "cuda_graphs",
                    default=True,
                    optional=True,
                    advanced=True,
                    tooltip="On an NVIDIA GPU: record a step of each image size once and replay it, which takes a "
                    "fraction of the time. With several image sizes the first steps of a size need up to twice the "
                    "memory of a step. Off, or with compile_blocks, each step is told anew.",
                ),
            ],
            outputs=[TrainSettingsSocket.Output("settings", tooltip="The settings with these options.")],
        )

    @classmethod
    def execute(
        cls, settings: TrainSettings, profile: str, compile_blocks: bool = False, cuda_graphs: bool = True
    ) -> io.NodeOutput:
        return changed(settings, memory_profile=profile, compile_blocks=compile_blocks, cuda_graphs=cuda_graphs)


NODES = [MemoryOptions]
