"""Nodes that change one group of a run's settings each; they are chained between settings and training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from comfy_api.latest import io

from ...trainer.settings.options import HUBER_SCHEDULES, LOSSES, MASKS
from ...trainer.settings.training import TrainSettings
from ..sockets import TrainSettingsSocket
from .changes import changed
from .settings import CATEGORY

# what the settings on the wire say: an options node that is put behind a preset must not undo it
AS_GIVEN = "as given"
SWITCH = ("on", "off")


def settings_input() -> io.Input:
    return TrainSettingsSocket.Input("settings", tooltip="From Training Settings or another options node.")


def changed_settings() -> list[io.Output]:
    return [
        TrainSettingsSocket.Output(
            "settings",
            tooltip="The settings with these options in place of the former; the node tells what that changes.",
        )
    ]


def share_input(name: str, tooltip: str) -> io.Input:
    return io.Float.Input(name, default=0.0, min=0.0, max=1.0, step=0.01, tooltip=tooltip)


def as_given_input(name: str, choices: Sequence[str], tooltip: str) -> io.Input:
    """A choice that is left to the settings on the wire unless somebody makes it; old graphs do not know it."""
    options = [AS_GIVEN, *choices]
    return io.Combo.Input(
        name, options=options, default=AS_GIVEN, optional=True, advanced=True, tooltip=f"{tooltip} as given: unchanged."
    )


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
            has_intermediate_output=True,
            inputs=[
                settings_input(),
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
                as_given_input(
                    "relative_step",
                    SWITCH,
                    "Only for adafactor: on lets it set its own rate for each tensor, from the size of the weights; no "
                    "learning rate and no schedule counts then (the thesis's run).",
                ),
            ],
            outputs=changed_settings(),
        )

    @classmethod
    def execute(
        cls,
        settings: TrainSettings,
        optimizer_class: str,
        te1_lr: float,
        te2_lr: float,
        relative_step: str = AS_GIVEN,
        **values: object,
    ) -> io.NodeOutput:
        options = replace(
            settings.optimizer_options,
            te1_lr=None if te1_lr < 0 else te1_lr,
            te2_lr=None if te2_lr < 0 else te2_lr,
            **values,  # type: ignore[arg-type]
        )
        name = optimizer_class.strip() or settings.optimizer
        relative = settings.adafactor_relative_step if relative_step == AS_GIVEN else relative_step == "on"
        return changed(settings, optimizer=name, optimizer_options=options, adafactor_relative_step=relative)


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


class LossOptions(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MjesecLossOptions",
            display_name="Loss Options",
            category=CATEGORY,
            description="What is measured, at which noise, and how much each image and noise level counts. "
            "v-prediction and zero terminal SNR need no switch: they are taken from the MODEL.",
            search_aliases=["min snr", "huber", "noise offset", "masked loss", "multires noise", "prior preservation"],
            has_intermediate_output=True,
            inputs=[settings_input(), *_loss_inputs(), *_noise_inputs()],
            outputs=changed_settings(),
        )

    @classmethod
    def execute(cls, settings: TrainSettings, **values: object) -> io.NodeOutput:
        return changed(settings, loss=replace(settings.loss, **values))  # type: ignore[arg-type]


def _loss_inputs() -> list[io.Input]:
    return [
        io.Combo.Input(
            "kind",
            options=list(LOSSES),
            default="l2",
            tooltip="l2: squared error. huber, smooth_l1: forgiving of outliers in the data.",
        ),
        _number("huber_c", 0.1, 1.0, 0.01, "Parameter of huber and smooth_l1: smaller forgives more."),
        io.Combo.Input(
            "huber_schedule",
            options=list(HUBER_SCHEDULES),
            default="snr",
            tooltip="How huber_c depends on the noise level: by its SNR, exponentially, or not at all.",
        ),
        _number("min_snr_gamma", 0.0, 100.0, 0.5, "Levels with little noise count less: min(SNR, gamma)/SNR. 5 is "
                "usual, 0 is off."),
        io.Boolean.Input("debiased", default=False, tooltip="Debiased estimation: weights by 1/√SNR."),
        io.Boolean.Input(
            "v_prediction_like_noise",
            default=False,
            tooltip="Weights a v-prediction model's loss by SNR/(SNR+1), as noise prediction counts.",
        ),
        io.Combo.Input(
            "mask",
            options=list(MASKS),
            default="none",
            tooltip="alpha: the loss counts where the image is opaque. files: where the picture of the same name in "
            "the folder masks beside the images is white.",
        ),
        _number("prior_weight", 1.0, 100.0, 0.05, "What regularisation images count for (Combine Datasets)."),
    ]  # fmt: skip


def _noise_inputs() -> list[io.Input]:
    return [
        _number("noise_offset", 0.0, 1.0, 0.01, "Moves each channel's noise as a whole, for darker and brighter "
                "images; 0.05 is usual, 0 is off."),
        io.Boolean.Input(
            "noise_offset_random", default=False, tooltip="Draws the strength anew from 0 to noise_offset each time."
        ),
        _number("adaptive_noise_scale", 0.0, 1.0, 0.001, "Adds this share of the latents' own mean to noise_offset."),
        io.Int.Input(
            "pyramid_iterations",
            default=0,
            min=0,
            max=32,
            tooltip="Multi-resolution noise: how many lower resolutions are added; 6 to 10 is usual, 0 is off.",
        ),
        _number("pyramid_discount", 0.3, 1.0, 0.05, "Weight of each lower resolution over the one before."),
        _number("input_perturbation", 0.0, 1.0, 0.01, "Extra noise on the input alone; 0.1 is usual, 0 is off."),
        io.Boolean.Input(
            "input_perturbation_random", default=False, tooltip="Draws its strength anew from 0 each time."
        ),
        io.Int.Input("min_timestep", default=0, min=0, max=999, tooltip="Lowest noise level that is trained."),
        io.Int.Input(
            "max_timestep", default=1000, min=1, max=1000, tooltip="Levels below this one are trained; 1000: all."
        ),
    ]  # fmt: skip


def _number(name: str, default: float, maximum: float, step: float, tooltip: str) -> io.Input:
    return io.Float.Input(name, default=default, min=0.0, max=maximum, step=step, round=1e-6, tooltip=tooltip)


NODES = [OptimizerOptions, LossOptions]
