"""Nodes that change one group of a run's settings each; they are chained between settings and training."""

from __future__ import annotations

from dataclasses import replace

from comfy_api.latest import io

from ..trainer.options import OptimizerSettings
from ..trainer.settings import TrainSettings
from .settings import CATEGORY
from .sockets import TrainSettingsSocket


def _settings() -> io.Input:
    return TrainSettingsSocket.Input("settings", tooltip="From Training Settings or another options node.")


def _changed() -> list[io.Output]:
    return [TrainSettingsSocket.Output("settings", tooltip="The settings with these options in place of the former.")]


class OptimizerOptions(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MjesecOptimizerOptions",
            display_name="Optimizer Options",
            category=CATEGORY,
            description="Any optimizer by its class's name, its arguments, rates of single parts, and the schedule's "
            "numbers.",
            search_aliases=["optimizer args", "lora+", "learning rate", "scheduler", "schedule-free"],
            inputs=[
                _settings(),
                io.String.Input(
                    "optimizer_class",
                    default="",
                    tooltip="A class from torch.optim, pytorch_optimizer, transformers or bitsandbytes.optim, such as "
                    "pytorch_optimizer.Adan. Empty: the optimizer of Training Settings.",
                ),
                io.String.Input(
                    "arguments",
                    default="",
                    tooltip="Arguments of the optimizer, such as betas=(0.9, 0.99), eps=1e-8. Empty: its own defaults.",
                ),
                _own_rate("te1_lr", "CLIP-L"),
                _own_rate("te2_lr", "bigG"),
                io.Float.Input(
                    "lora_plus_ratio",
                    default=1.0,
                    min=0.01,
                    max=1000.0,
                    step=1.0,
                    tooltip="LoRA+: the learning rate of the up matrices over that of the down matrices; 16 is usual, "
                    "1 is off.",
                ),
                io.Int.Input(
                    "cycles", default=1, min=1, max=1000, tooltip="Cosines of the schedule cosine_with_restarts."
                ),
                io.Float.Input(
                    "power", default=1.0, min=0.0, max=100.0, step=0.1, tooltip="Exponent of the schedule polynomial."
                ),
                io.String.Input(
                    "step_rules",
                    default="",
                    tooltip="For the schedule piecewise_constant: 1:100,0.1:200,0.01 multiplies the rates by 1 up to "
                    "step 100, by 0.1 up to step 200, then by 0.01.",
                ),
            ],
            outputs=_changed(),
        )

    @classmethod
    def execute(
        cls, settings: TrainSettings, optimizer_class: str, te1_lr: float, te2_lr: float, **values: object
    ) -> io.NodeOutput:
        options = OptimizerSettings(
            te1_lr=None if te1_lr < 0 else te1_lr,
            te2_lr=None if te2_lr < 0 else te2_lr,
            **values,  # type: ignore[arg-type]
        )
        name = optimizer_class.strip() or settings.optimizer
        return io.NodeOutput(replace(settings, optimizer=name, optimizer_options=options))


def _own_rate(name: str, encoder: str) -> io.Input:
    return io.Float.Input(
        name,
        default=-1.0,
        min=-1.0,
        max=1.0,
        step=1e-6,
        round=1e-9,
        tooltip=f"Learning rate of the text encoder {encoder}; -1: text_lr of the settings.",
    )


NODES = [OptimizerOptions]
