"""The options of a run in small frozen groups, each with its rules: adapter, optimizer, loss, captions, images, EMA."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from ..errors import SettingsError
from .arguments import parse_arguments
from .blocks import BLOCKS
from .rules import choice, finite, pattern, share, whole

KINDS = ("lora", "loha", "lokr")
INITIALS = ("kaiming", "pissa")
LOSSES = ("l2", "huber", "smooth_l1")
HUBER_SCHEDULES = ("snr", "exponential", "constant")
MASKS = ("none", "alpha", "files")
TOKEN_LIMITS = (75, 150, 225)
LONG_CAPTIONS = ("comfyui", "kohya")
EMA_FILES = ("instead", "beside")
_NUMBER = r"\d+(\.\d*)?(e-?\d+)?"
_STEP_RULES = re.compile(rf"({_NUMBER}:\d+,)+{_NUMBER}", re.IGNORECASE)


@dataclass(frozen=True)
class AdapterSettings:
    """What the LoRA is, beside its rank and alpha.

    kind: ``lora``, ``loha`` (Hyeon-Woo et al., 2021) or ``lokr`` (Yeh et al., 2023).
    initial: ``kaiming`` starts at nothing; ``pissa`` (Meng et al., 2024) at the base's largest singular values.
    rank_stabilized: scale by alpha / √rank instead of alpha / rank (Kalajdzievski, 2023).
    dora: learns each output's magnitude apart from its direction (Liu et al., 2024).
    conv_rank, conv_alpha: also adapts the 3×3 convolutions, and with ``rank`` the other layers of the residual blocks,
        as kohya's conv_dim and conv_alpha; rank 0 leaves them alone.
    dropout, rank_dropout, module_dropout: shares of the inner values, of the ranks, of whole modules that a training
        step leaves out (kohya's network_dropout, rank_dropout, module_dropout).
    lokr_factor: size of the smaller Kronecker factor; -1 splits as evenly as possible.
    skip_blocks: blocks of the U-Net that stay without adapter, by kohya's names: IN01 … IN08, MID, OUT00 … OUT08.
    include, exclude: regular expressions searched in kohya's module names; empty: all, none.
    """

    kind: str = "lora"
    initial: str = "kaiming"
    rank_stabilized: bool = False
    dora: bool = False
    conv_rank: int = 0
    conv_alpha: float = 1.0
    dropout: float = 0.0
    rank_dropout: float = 0.0
    module_dropout: float = 0.0
    lokr_factor: int = -1
    skip_blocks: tuple[str, ...] = ()
    include: str = ""
    exclude: str = ""

    def __post_init__(self) -> None:
        choice("kind", self.kind, KINDS)
        choice("initial", self.initial, INITIALS)
        whole("conv_rank", self.conv_rank, 0)
        finite("conv_alpha", self.conv_alpha, 0)
        if self.conv_alpha == 0:
            raise SettingsError("conv_alpha is 0, which would scale the convolutions' LoRA away; give 1 or more.")
        for name in ("dropout", "rank_dropout", "module_dropout"):
            share(name, getattr(self, name))
        whole("lokr_factor", self.lokr_factor, -1)
        if self.lokr_factor == 0:
            raise SettingsError("lokr_factor is 0; give a positive number, or -1 for an even split.")
        for block in self.skip_blocks:
            choice("skip_blocks", block, BLOCKS)
        pattern("include", self.include)
        pattern("exclude", self.exclude)
        self._check_together()

    def _check_together(self) -> None:
        plain = {"initial": self.initial == "pissa", "dora": self.dora, "dropout": self.dropout > 0,
                 "rank_stabilized": self.rank_stabilized}  # fmt: skip
        if self.kind != "lora" and (wrong := [name for name, used in plain.items() if used]):
            raise SettingsError(f"{wrong[0]} belongs to the kind lora and cannot be used with {self.kind}.")
        if self.dora and self.initial == "pissa":
            raise SettingsError("dora and the initial weights pissa cannot be combined; choose one of them.")
        if self.dora and self.drops:
            raise SettingsError("dora cannot be combined with drop-out of the adapter; set the drop-outs to 0.")

    @property
    def drops(self) -> bool:
        """Whether a training step leaves something out."""
        return max(self.dropout, self.rank_dropout, self.module_dropout) > 0

    def scale(self, rank: int, alpha: float) -> float:
        """What the adapter's output is multiplied by."""
        return alpha / math.sqrt(rank) if self.rank_stabilized else alpha / rank


@dataclass(frozen=True)
class OptimizerSettings:
    """What the optimizer and its schedule are told beside rates, weight decay and warm-up.

    arguments: keyword arguments of the optimizer's class as text, such as ``betas=(0.9, 0.99), eps=1e-8``.
    te1_lr, te2_lr: rates of CLIP-L and bigG; None takes the text encoders' common rate.
    lora_plus_ratio: the rate of the up matrices over that of the down matrices (LoRA+, Hayou et al., 2024).
    cycles: of the schedule cosine_with_restarts. power: of the schedule polynomial.
    step_rules: of the schedule piecewise_constant, as diffusers reads them: ``1:10,0.1:20,0.01`` multiplies the rates
        by 1 up to step 10, by 0.1 up to step 20 and by 0.01 from there.
    """

    arguments: str = ""
    te1_lr: float | None = None
    te2_lr: float | None = None
    lora_plus_ratio: float = 1.0
    cycles: int = 1
    power: float = 1.0
    step_rules: str = ""

    def __post_init__(self) -> None:
        parse_arguments(self.arguments)
        for name in ("te1_lr", "te2_lr"):
            if (rate := getattr(self, name)) is not None:
                finite(name, rate, 0)
        finite("lora_plus_ratio", self.lora_plus_ratio, 0)
        if self.lora_plus_ratio == 0:
            raise SettingsError("lora_plus_ratio is 0, so the up matrices would never learn; 1 turns LoRA+ off.")
        whole("cycles", self.cycles, 1)
        finite("power", self.power, 0)
        if self.step_rules and not _STEP_RULES.fullmatch(self.step_rules):
            raise SettingsError(
                f"step_rules '{self.step_rules}' cannot be read; write factor:step,…,factor, such as "
                "'1:100,0.1:200,0.01'."
            )


@dataclass(frozen=True)
class LossSettings:
    """What is measured, at which noise, and how much each image counts.

    kind: ``l2``, ``huber`` or ``smooth_l1`` (pseudo-Huber as kohya computes them).
    huber_c, huber_schedule: the pseudo-Huber losses' parameter and how it depends on the timestep.
    min_snr_gamma: weights by min(SNR, γ) (Hang et al., 2023); 0 is off.
    debiased: weights by 1/√SNR (Yu et al., 2023).
    v_prediction_like_noise: weights v-prediction by SNR/(SNR + 1), so that it counts as noise prediction does.
    noise_offset, noise_offset_random: a constant added to each channel's noise, and whether its strength is drawn
        anew from 0 to ``noise_offset``; adaptive_noise_scale adds to it this share of the latents' own mean.
    pyramid_iterations, pyramid_discount: multi-resolution noise; 0 iterations is off.
    input_perturbation, input_perturbation_random: extra noise on the input that the target does not know
        (Ning et al., 2023).
    min_timestep, max_timestep: noise levels that are trained, from ``min_timestep`` up to but without
        ``max_timestep``.
    mask: ``alpha`` takes each image's own transparency, ``files`` the pictures of the same name in the folder
        ``masks`` beside the images; the loss counts where the mask is white.
    prior_weight: what the images of the regularisation set count for.
    """

    kind: str = "l2"
    huber_c: float = 0.1
    huber_schedule: str = "snr"
    min_snr_gamma: float = 0.0
    debiased: bool = False
    v_prediction_like_noise: bool = False
    noise_offset: float = 0.0
    noise_offset_random: bool = False
    adaptive_noise_scale: float = 0.0
    pyramid_iterations: int = 0
    pyramid_discount: float = 0.3
    input_perturbation: float = 0.0
    input_perturbation_random: bool = False
    min_timestep: int = 0
    max_timestep: int = 1000
    mask: str = "none"
    prior_weight: float = 1.0

    def __post_init__(self) -> None:
        choice("kind", self.kind, LOSSES)
        choice("huber_schedule", self.huber_schedule, HUBER_SCHEDULES)
        choice("mask", self.mask, MASKS)
        finite("huber_c", self.huber_c, 0)
        if self.huber_c == 0:
            raise SettingsError("huber_c is 0, which leaves no loss; give a number such as 0.1.")
        for name in ("min_snr_gamma", "noise_offset", "adaptive_noise_scale", "input_perturbation", "prior_weight"):
            finite(name, getattr(self, name), 0)
        whole("pyramid_iterations", self.pyramid_iterations, 0, 32)
        finite("pyramid_discount", self.pyramid_discount, 0, 1)
        whole("min_timestep", self.min_timestep, 0, 999)
        whole("max_timestep", self.max_timestep, 1, 1000)
        if self.min_timestep >= self.max_timestep:
            raise SettingsError(
                f"min_timestep is {self.min_timestep}, not below max_timestep {self.max_timestep}; no level is left."
            )

    @property
    def measure(self) -> str:
        """What a step's loss is: ``MSE``, or such as ``huber, min-SNR 5``, which no MSE can be compared to."""
        weights = {
            f"min-SNR {self.min_snr_gamma:g}": self.min_snr_gamma,
            "debiased": self.debiased,
            "v-prediction like noise": self.v_prediction_like_noise,
            "masked": self.mask != "none",
        }
        name = "MSE" if self.kind == "l2" else self.kind.replace("_", " ")
        return ", ".join([name, *(weight for weight, used in weights.items() if used)])


@dataclass(frozen=True)
class CaptionSettings:
    """How a caption is varied from step to step, and how long it may be.

    shuffle: shuffles the tags, the parts between ``separator``.
    keep_tokens: the first tags that stay in place and are never dropped; where ``keep_separator`` stands in a caption,
        the tags before it stay instead.
    dropout: share of steps in which an image is seen without words. tag_dropout: share of tags that are left out.
    dropout_every_epochs: every n-th epoch is without words; 0 is off.
    wildcards: draws one of ``{a|b|c}`` and one of the lines of a caption file; ``{{`` and ``}}`` are braces.
    trigger: words put before every caption; they are neither shuffled nor dropped with the tags.
    tokens: 75, or 150 or 225 for long captions in two or three pieces of 75.
    long_captions: ``comfyui`` encodes and concatenates whole pieces as the host does, ``kohya`` drops the inner starts
        and ends and always fills up to ``tokens``. The pooled output is the first piece's in both.
    """

    shuffle: bool = False
    keep_tokens: int = 0
    keep_separator: str = "|||"
    separator: str = ","
    dropout: float = 0.0
    tag_dropout: float = 0.0
    dropout_every_epochs: int = 0
    wildcards: bool = False
    trigger: str = ""
    tokens: int = 75
    long_captions: str = "comfyui"

    def __post_init__(self) -> None:
        whole("keep_tokens", self.keep_tokens, 0)
        whole("dropout_every_epochs", self.dropout_every_epochs, 0)
        finite("dropout", self.dropout, 0, 1)
        finite("tag_dropout", self.tag_dropout, 0, 1)
        if not self.separator.strip():
            raise SettingsError("separator is empty; give what stands between the tags, such as a comma.")
        choice("long_captions", self.long_captions, LONG_CAPTIONS)
        if self.tokens not in TOKEN_LIMITS:
            raise SettingsError(f"tokens is {self.tokens!r}; choose one of 75, 150, 225.")

    @property
    def varies(self) -> bool:
        """Whether one image is seen with different captions, so that its encoded text cannot be kept."""
        drawn = self.dropout or self.tag_dropout or self.dropout_every_epochs
        return bool(self.shuffle or self.wildcards or drawn)


@dataclass(frozen=True)
class ImageSettings:
    """How image files become training images.

    flip: mirrors an image in half of the steps.
    exif_rotate: turns it the way the camera was held; kohya does not.
    alpha_background: the colour behind transparent pixels, 0 to 255 a channel; None drops alpha, as kohya does.
    more_resolutions: sides in pixels of further squares; each image is also trained at their areas.
    """

    flip: bool = False
    exif_rotate: bool = True
    alpha_background: tuple[int, int, int] | None = (255, 255, 255)
    more_resolutions: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for channel in self.alpha_background or ():
            whole("alpha_background", channel, 0, 255)
        if self.alpha_background is not None and len(self.alpha_background) != 3:
            raise SettingsError(f"alpha_background is {self.alpha_background}; give red, green and blue.")
        for side in self.more_resolutions:
            whole("more_resolutions", side, 64, 4096)


@dataclass(frozen=True)
class EmaSettings:
    """A running mean of the weights: w̄ ← decay · w̄ + (1 - decay) · w after each step.

    decay: 0 is off; 0.999 remembers about 1000 steps. file: the mean is saved ``instead`` of the last weights, or
    ``beside`` them as ``name-ema.safetensors``.
    """

    decay: float = 0.0
    file: str = "instead"

    def __post_init__(self) -> None:
        share("decay", self.decay)
        choice("file", self.file, EMA_FILES)
