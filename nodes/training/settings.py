"""Nodes that say what a training run does."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...trainer.dataset.buckets import BucketSettings
from ...trainer.errors import SettingsError
from ...trainer.settings.optimizer_names import CLASSES
from ...trainer.settings.training import (
    PARTS,
    PRECISIONS,
    SCHEDULES,
    TrainSettings,
    thesis_settings,
)
from ..sockets import TrainSettingsSocket

CATEGORY = "Mjesec/training"
_MAX_SEED = 0xFFFFFFFFFFFF


def _name() -> io.Input:
    return io.String.Input(
        "output_name", default="mjesec", tooltip="Name of the LoRA file, without folder and extension."
    )


def _steps(default: int) -> io.Input:
    return io.Int.Input(
        "steps",
        default=default,
        min=1,
        max=1_000_000,
        tooltip="Optimizer steps. The report says how many epochs that is.",
    )


def _resolution(default: int) -> io.Input:
    return io.Int.Input(
        "resolution",
        default=default,
        min=64,
        max=4096,
        step=64,
        tooltip="Side in pixels of the square whose area an image may keep; larger images are shrunk to it, and "
        "aspect ratios are kept in buckets.",
    )


def _seed() -> io.Input:
    return io.Int.Input(
        "seed",
        default=0,
        min=0,
        max=_MAX_SEED,
        control_after_generate=io.ControlAfterGenerate.fixed,
        tooltip="Initial weights, order of the images, noise and timesteps follow from it.",
    )


def _precision(default: str) -> io.Input:
    return io.Combo.Input(
        "precision",
        options=list(PRECISIONS),
        default=default,
        tooltip="Number format of forward and backward. LoRA weights and optimizer are fp32 in every case. bf16 suits "
        "most machines; fp16 needs loss scaling, which is done; fp32 is slow and exact.",
    )


def _train() -> io.Input:
    return io.Combo.Input(
        "train",
        options=list(reversed(PARTS)),
        default="unet+text",
        tooltip="unet+text adapts the U-Net and both text encoders (986 modules), unet the U-Net alone (722 modules, "
        "less memory, faster).",
    )


def _validation(default: int) -> io.Input:
    return io.Int.Input(
        "validation_images",
        default=default,
        min=0,
        max=1000,
        tooltip="Images held out of training. Their loss, at fixed noise and timesteps, is reported for the base and "
        "for the LoRA: honest evidence of what was learnt.",
    )


def _judged(node: type[io.ComfyNode], output_name: str | None, **values: Any) -> bool | str:
    """What the rules say before anything is loaded; of values on wires, None, nothing is known yet."""
    # the host leaves the limits of what is judged here to us
    for widget in (each for each in node.define_schema().inputs if isinstance(each, io.Int.Input | io.Float.Input)):
        if (value := values.get(widget.id)) is not None and not widget.min <= value <= widget.max:
            return f"{widget.id} is {value}; it must be from {widget.min} to {widget.max}."
    known = {} if None in values.values() else values
    try:
        TrainSettings(**known, **({} if output_name is None else {"output_name": output_name}))
    except SettingsError as error:
        return str(error)
    return True


class TrainingSettings(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MjesecTrainSettings",
            display_name="Training Settings",
            category=CATEGORY,
            description="All numbers of a training run; the defaults are the recommended ones.",
            search_aliases=["lora settings", "hyperparameters", "learning rate", "network_dim"],
            inputs=[
                _name(),
                _steps(1000),
                _resolution(1024),
                io.Int.Input(
                    "batch_size",
                    default=1,
                    min=1,
                    max=256,
                    tooltip="Images in one forward pass. More needs more memory.",
                ),
                io.Int.Input(
                    "rank",
                    default=32,
                    min=1,
                    max=1024,
                    tooltip="network_dim: how much the LoRA can hold. The file grows with it (228 MB at 32 with text).",
                ),
                io.Float.Input(
                    "alpha",
                    default=32.0,
                    min=0.001,
                    max=4096.0,
                    step=0.5,
                    tooltip="network_alpha: the LoRA's output is scaled by alpha / rank.",
                ),
                io.Float.Input(
                    "unet_lr",
                    default=1e-4,
                    min=0.0,
                    max=1.0,
                    step=1e-6,
                    round=1e-9,
                    tooltip="Learning rate of the U-Net's LoRA.",
                ),
                io.Float.Input(
                    "text_lr",
                    default=5e-5,
                    min=0.0,
                    max=1.0,
                    step=1e-6,
                    round=1e-9,
                    tooltip="Learning rate of the text encoders' LoRA; without effect where only the U-Net is trained.",
                ),
                _train(),
                _seed(),
                _precision("bf16"),
                _validation(0),
                io.Combo.Input(
                    "optimizer",
                    options=list(CLASSES),
                    default="adamw",
                    advanced=True,
                    tooltip="adamw (torch); adamw8bit (needs bitsandbytes); adafactor (transformers, least memory); "
                    "prodigy (finds its rate: set the learning rates to 1), lion, came, schedulefree "
                    "(pytorch-optimizer). Optimizer Options takes any other class by name.",
                ),
                io.Combo.Input(
                    "schedule",
                    options=list(SCHEDULES),
                    default="cosine",
                    advanced=True,
                    tooltip="The learning rate after the warm-up, by diffusers' names: constant, or down to 0 at the "
                    "last step in a line, a cosine, several cosines or a power; piecewise_constant by rules. The "
                    "numbers of the last three are in Optimizer Options.",
                ),
                io.Int.Input(
                    "warmup_steps",
                    default=0,
                    min=0,
                    max=100_000,
                    advanced=True,
                    tooltip="Steps in which the learning rate rises from 0.",
                ),
                io.Int.Input(
                    "gradient_accumulation",
                    default=1,
                    min=1,
                    max=256,
                    advanced=True,
                    tooltip="Batches whose gradients make one optimizer step: a larger batch without its memory.",
                ),
                io.Float.Input(
                    "weight_decay",
                    default=0.01,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    advanced=True,
                    tooltip="Weight decay, for optimizers that have one.",
                ),
                io.Float.Input(
                    "max_grad_norm",
                    default=1.0,
                    min=0.0,
                    max=1000.0,
                    step=0.1,
                    advanced=True,
                    tooltip="The joint norm of all gradients is clipped to it; 0 turns clipping off.",
                ),
                io.Boolean.Input(
                    "gradient_checkpointing",
                    default=False,
                    advanced=True,
                    tooltip="Computes activations again in the backward pass: much less memory, about 40 % slower.",
                ),
                io.Int.Input(
                    "save_every_epochs",
                    default=0,
                    min=0,
                    max=1000,
                    advanced=True,
                    tooltip="Writes name-000001.safetensors and so on at every n-th epoch's end; 0: only the last.",
                ),
                io.Combo.Input(
                    "save_precision",
                    options=list(PRECISIONS),
                    default="fp16",
                    advanced=True,
                    tooltip="Number format of the LoRA file.",
                ),
            ],
            outputs=[TrainSettingsSocket.Output("settings", tooltip="For Train SDXL LoRA.")],
        )

    @classmethod
    def validate_inputs(
        cls,
        output_name: str | None = None,
        steps: int | None = None,
        train: str | None = None,
        optimizer: str | None = None,
        unet_lr: float | None = None,
        text_lr: float | None = None,
        schedule: str | None = None,
        warmup_steps: int | None = None,
    ) -> bool | str:
        return _judged(
            cls,
            output_name,
            steps=steps,
            train=train,
            optimizer=optimizer,
            unet_lr=unet_lr,
            text_lr=text_lr,
            schedule=schedule,
            warmup_steps=warmup_steps,
        )

    @classmethod
    def execute(cls, resolution: int, **values: object) -> io.NodeOutput:
        buckets = BucketSettings(resolution=(resolution, resolution))
        return io.NodeOutput(TrainSettings(buckets=buckets, **values))  # type: ignore[arg-type]


class ThesisSettings(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MjesecThesisSettings",
            display_name="Thesis Settings",
            category=CATEGORY,
            description="The run of Strakoš (2024) as kohya_ss computed it: rank 32, alpha 8, Adafactor with its own "
            "relative steps, batch 1, constant schedule, one sample of the latents drawn once.",
            search_aliases=["kohya", "parity", "preset"],
            inputs=[
                _name(),
                _steps(1600),
                _resolution(1024),
                _train(),
                _seed(),
                io.Combo.Input(
                    "precision",
                    options=["auto", *PRECISIONS],
                    default="auto",
                    tooltip="auto: fp16 with loss scaling as in the thesis, or bf16 where the machine does not "
                    "compute in fp16 (a CPU).",
                ),
                _validation(0),
            ],
            outputs=[TrainSettingsSocket.Output("settings", tooltip="For Train SDXL LoRA.")],
        )

    @classmethod
    def validate_inputs(cls, output_name: str | None = None) -> bool | str:
        return _judged(cls, output_name)

    @classmethod
    def execute(cls, resolution: int, precision: str, **values: object) -> io.NodeOutput:
        from ..host import training_device

        if precision == "auto":
            precision = "bf16" if training_device().type == "cpu" else "fp16"
        buckets = BucketSettings(resolution=(resolution, resolution))
        return io.NodeOutput(thesis_settings(buckets=buckets, precision=precision, **values))


NODES = [TrainingSettings, ThesisSettings]
