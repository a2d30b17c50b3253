"""The node that says when a run is measured and what it writes on the way."""

from __future__ import annotations

from dataclasses import replace

from comfy_api.latest import io

from ...trainer.settings.training import TrainSettings
from ..sockets import TrainSettingsSocket
from .changes import changed
from .settings import CATEGORY


def _steps(name: str, tooltip: str) -> io.Input:
    return io.Int.Input(name, default=0, min=0, max=1_000_000, tooltip=tooltip)


class CheckpointOptions(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MjesecCheckpointOptions",
            display_name="Validation and Checkpoints",
            category=CATEGORY,
            description="When the images held out of training are measured, when training ends early, and what is "
            "written on the way.",
            search_aliases=["validation loss", "early stopping", "best checkpoint", "save every", "tensorboard"],
            has_intermediate_output=True,
            inputs=[
                TrainSettingsSocket.Input("settings", tooltip="From Training Settings or another options node."),
                _steps(
                    "validate_every",
                    "Optimizer steps between measurements of the held-out loss; 0 measures before and after training "
                    "only. Needs validation_images.",
                ),
                io.Boolean.Input(
                    "keep_best",
                    default=True,
                    tooltip="Writes name-best.safetensors whenever the held-out loss is the lowest so far.",
                ),
                io.Int.Input(
                    "patience",
                    default=0,
                    min=0,
                    max=10_000,
                    tooltip="Ends the run after so many measurements without a lower held-out loss; 0 never does.",
                ),
                _steps("save_every", "Writes name-step00000500.safetensors and so on every so many steps; 0: none."),
                io.Int.Input(
                    "state_seconds",
                    default=300,
                    min=0,
                    max=86_400,
                    tooltip="Seconds of training that a crash may cost at most: the state is saved so often; 0 is off.",
                ),
                _steps("state_every", "Also saves the state every so many steps; 0 is off."),
                io.Boolean.Input(
                    "tensorboard",
                    default=True,
                    tooltip="Writes TensorBoard files into output/mjesec/tensorboard, where the package tensorboard is "
                    "installed.",
                ),
                io.Boolean.Input(
                    "embed_workflow",
                    default=True,
                    optional=True,
                    tooltip="Each LoRA file carries the graph that made it and small pictures of training images, so "
                    "that whoever has the file can open the one and see the others. Turn it off for files to give "
                    "away without them.",
                    advanced=True,
                ),
            ],
            outputs=[TrainSettingsSocket.Output("settings", tooltip="The settings with these options.")],
        )

    @classmethod
    def execute(
        cls,
        settings: TrainSettings,
        validate_every: int,
        keep_best: bool,
        patience: int,
        save_every: int,
        state_seconds: int,
        state_every: int,
        tensorboard: bool,
        embed_workflow: bool = True,
    ) -> io.NodeOutput:
        validation = replace(settings.validation, every=validate_every, keep_best=keep_best, patience=patience)
        saving = replace(
            settings.saving,
            state_seconds=state_seconds,
            state_steps=state_every,
            lora_steps=save_every,
            tensorboard=tensorboard,
            embed=embed_workflow,
        )
        return changed(settings, validation=validation, saving=saving)


NODES = [CheckpointOptions]
