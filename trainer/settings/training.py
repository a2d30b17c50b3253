"""What a training run does: one frozen value, whose rules stand in one place."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field

from ..dataset.buckets import BucketSettings
from ..errors import SettingsError
from .optimizer_names import class_name
from .options import (
    AdapterSettings,
    CaptionSettings,
    EmaSettings,
    ImageSettings,
    LossSettings,
    OptimizerSettings,
)
from .rules import choice, finite, whole
from .run_options import SavingSettings, ValidationSettings

SCHEDULES = (
    "constant",
    "constant_with_warmup",
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "piecewise_constant",
)
PRECISIONS = ("bf16", "fp16", "fp32")
PROFILES = ("auto", "fast", "low")
PARTS = ("unet", "unet+text")
LATENTS = ("sample_once", "resample")
STORAGES = ("as given", "fp8", "int8", "nf4")
CROPS = ("true", "kohya")
MAX_SEED = 2**63 - 1
_NAME = re.compile(r"[^\x00-\x1f<>:\"/\\|?*]{1,120}")
_DEVICE_NAMES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


@dataclass(frozen=True)
class TrainSettings:
    """Every number of a run.

    steps: optimizer steps. Epochs follow from them and are reported, never the other way round.
    optimizer: a name or the full name of a class, see ``optimizer_names``; schedule: one of diffusers'.
    rank, alpha: kohya's network_dim and network_alpha; the adapter's output is scaled by alpha / rank.
    unet_lr, text_lr: learning rates of the two groups. Adafactor with ``adafactor_relative_step`` ignores both.
    train: ``unet`` or ``unet+text`` (both text encoders).
    latents: ``resample`` draws the VAE's posterior anew at every step, ``sample_once`` once for good (kohya).
    base_storage: ``fp8`` and ``int8`` keep the frozen weights of the U-Net's layers and of adapted ones in half of
        bf16's memory, ``nf4`` in little more than a quarter (with bitsandbytes), rounded.
    told_crop: ``true`` tells SDXL the crop that was made, ``kohya`` what kohya tells it.
    precision: of the products in forward and backward pass; adapters and optimizer state are always fp32.
    max_grad_norm: joint norm of all gradients after clipping; 0 turns clipping off.
    save_every_epochs: writes ``name-000001.safetensors`` and so on at epoch ends; 0 turns that off.
    validation_images: held out of training; their loss at fixed noise and timesteps is reported.
    memory_profile: ``auto`` turns gradient checkpointing on where the memory is short, ``low`` always, ``fast`` never.
    compile_blocks: torch.compile of the transformer blocks: minutes before the first step, then shorter ones.
    cuda_graphs: on a GPU, record a step of each size once and replay it; what is computed is the same.
    buckets, adapter, optimizer_options, loss, captions, images, ema, validation, saving: groups with rules
        of their own.

    Raises:
        SettingsError: names the field, the value given and what is allowed.
    """

    output_name: str = "mjesec"
    steps: int = 1000
    batch_size: int = 1
    gradient_accumulation: int = 1
    train: str = "unet+text"
    rank: int = 32
    alpha: float = 32.0
    optimizer: str = "adamw"
    unet_lr: float = 1e-4
    text_lr: float = 5e-5
    weight_decay: float = 0.01
    adafactor_relative_step: bool = False
    schedule: str = "cosine"
    warmup_steps: int = 0
    max_grad_norm: float = 1.0
    precision: str = "bf16"
    gradient_checkpointing: bool = False
    latents: str = "resample"
    told_crop: str = "true"
    base_storage: str = "as given"
    seed: int = 0
    save_every_epochs: int = 0
    save_precision: str = "fp16"
    validation_images: int = 0
    buckets: BucketSettings = field(default_factory=BucketSettings)
    adapter: AdapterSettings = field(default_factory=AdapterSettings)
    optimizer_options: OptimizerSettings = field(default_factory=OptimizerSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    captions: CaptionSettings = field(default_factory=CaptionSettings)
    images: ImageSettings = field(default_factory=ImageSettings)
    ema: EmaSettings = field(default_factory=EmaSettings)
    memory_profile: str = "auto"
    compile_blocks: bool = False
    cuda_graphs: bool = True
    validation: ValidationSettings = field(default_factory=ValidationSettings)
    saving: SavingSettings = field(default_factory=SavingSettings)

    def __post_init__(self) -> None:
        check_output_name(self.output_name)
        for name in ("steps", "batch_size", "gradient_accumulation", "rank"):
            whole(name, getattr(self, name), 1)
        for name in ("warmup_steps", "save_every_epochs", "validation_images", "seed"):
            whole(name, getattr(self, name), 0)
        for name in ("unet_lr", "text_lr", "weight_decay", "max_grad_norm"):
            finite(name, getattr(self, name), 0)
        finite("alpha", self.alpha, 0)
        class_name(self.optimizer)
        for name, allowed in _CHOICES.items():
            choice(name, getattr(self, name), allowed)
        self._check_together()

    def _check_together(self) -> None:
        if self.alpha == 0:
            raise SettingsError("alpha is 0, which would scale the LoRA away; give a positive number such as the rank.")
        if self.seed > MAX_SEED:
            raise SettingsError(f"seed is {self.seed}; it must be at most {MAX_SEED}.")
        if not any(self.rates) and not self.adafactor_relative_step:
            raise SettingsError("Every learning rate is 0, so nothing would be trained; give a rate such as 1e-4.")
        if self.adafactor_relative_step and self.optimizer != "adafactor":
            raise SettingsError(f"adafactor_relative_step needs the optimizer adafactor, not '{self.optimizer}'.")
        self._check_own_rates()
        if self.optimizer_options.lora_plus_ratio != 1 and self.adapter.kind != "lora":
            raise SettingsError(f"lora_plus_ratio belongs to the kind lora, not to {self.adapter.kind}; set it to 1.")
        if self.schedule == "piecewise_constant" and not self.optimizer_options.step_rules:
            raise SettingsError("The schedule piecewise_constant needs step_rules, such as '1:100,0.1:200,0.01'.")
        if self.schedule == "piecewise_constant" and self.warmup_steps:
            raise SettingsError("The schedule piecewise_constant has no warm-up; set warmup_steps to 0.")
        if self.validation.every and not self.validation_images:
            raise SettingsError("validate_every needs images to measure; give validation_images, such as 8.")
        highest = max(self.rates) * max(self.optimizer_options.lora_plus_ratio, 1)
        if self.schedule == "polynomial" and not self.adafactor_relative_step and highest <= POLYNOMIAL_END:
            raise SettingsError(
                f"The schedule polynomial ends at a rate of {POLYNOMIAL_END:g}, and {highest:g} is no more than that; "
                "give a higher rate or another schedule."
            )
        self._check_storage()
        if self.warmup_steps > self.steps:
            raise SettingsError(f"warmup_steps is {self.warmup_steps}, more than the {self.steps} steps of the run.")

    def _check_storage(self) -> None:
        if self.base_storage != "fp8":
            return
        if self.compile_blocks:
            raise SettingsError("compile_blocks cannot be combined with base_storage fp8; turn it off or take int8.")
        if self.adapter.dora and self.adapter.conv_rank:
            raise SettingsError("dora with a conv_rank cannot be combined with base_storage fp8; take int8.")

    def _check_own_rates(self) -> None:
        """Optimizers that find their rates by themselves look at the first group's or at none."""
        name, one_rate = self.optimizer_class, self.finds_own_rate
        if one_rate and len(set(self.rates)) > 1:
            given = ", ".join(f"{rate:g}" for rate in self.rates)
            raise SettingsError(
                f"{name} gives all parts one rate, but the learning rates are {given}; "
                "set them all to the same number, usually 1."
            )
        if (one_rate or self.adafactor_relative_step) and self.optimizer_options.lora_plus_ratio != 1:
            which = name if one_rate else "adafactor_relative_step"
            raise SettingsError(f"{which} sets its own rates, so that lora_plus_ratio has no effect; set it to 1.")

    @property
    def optimizer_class(self) -> str:
        """The name of the optimizer's class without its library."""
        return class_name(self.optimizer).rpartition(".")[2]

    @property
    def finds_own_rate(self) -> bool:
        """Whether the learning rate is only a factor of what the optimizer estimates by itself."""
        return self.optimizer_class == "Prodigy" or self.optimizer_class.startswith("DAdapt")

    @property
    def trains_text(self) -> bool:
        return self.train == "unet+text"

    @property
    def rates(self) -> tuple[float, ...]:
        """The learning rates of what is trained: the U-Net's and, with text, those of CLIP-L and bigG."""
        own = (self.optimizer_options.te1_lr, self.optimizer_options.te2_lr)
        return self.unet_lr, *(self.text_lr if rate is None else rate for rate in own if self.trains_text)

    @property
    def scale(self) -> float:
        """What the LoRA's output is multiplied by: alpha / rank, or alpha / √rank where it is rank-stabilized."""
        return self.adapter.scale(self.rank, self.alpha)

    def as_dict(self) -> dict[str, object]:
        """Plain values, for reports, hashes and metadata."""
        return asdict(self)


# diffusers' get_polynomial_decay_schedule_with_warmup
POLYNOMIAL_END = 1e-7
_CHOICES = {
    "schedule": SCHEDULES,
    "precision": PRECISIONS,
    "save_precision": PRECISIONS,
    "train": PARTS,
    "latents": LATENTS,
    "memory_profile": PROFILES,
    "told_crop": CROPS,
    "base_storage": STORAGES,
}


def check_output_name(name: str) -> None:
    """Accept a plain file name without extension, of at most 120 characters and 160 bytes.

    Raises:
        SettingsError: separators, ``..``, control characters, names that Windows reserves.
    """
    plain = _NAME.fullmatch(name) and name == name.strip() and not name.startswith(".") and not name.endswith(".")
    # file systems count bytes, and the epoch and the temporary file's ending come on top
    short = len(name.encode("utf-8", "surrogatepass")) <= 160
    if not plain or not short or _DEVICE_NAMES.fullmatch(name) or name.lower().endswith(".safetensors"):
        raise SettingsError(
            f"The output name '{name}' must be a short, plain file name such as 'mjesec', "
            "without folders, '..' or '.safetensors'."
        )


def thesis_settings(**changes: object) -> TrainSettings:
    """The run of Strakoš (2024) as kohya_ss v24.1.6 computed it; ``changes`` replace single fields."""
    base: dict[str, object] = {
        "steps": 1600,
        "rank": 32,
        "alpha": 8.0,
        "optimizer": "adafactor",
        "adafactor_relative_step": True,
        "unet_lr": 1e-4,
        "text_lr": 1e-4,
        "weight_decay": 0.0,
        "schedule": "constant",
        "precision": "fp16",
        "latents": "sample_once",
        "told_crop": "kohya",
        "save_every_epochs": 1,
        "images": ImageSettings(exif_rotate=False, alpha_background=None),
        "captions": CaptionSettings(keep_separator=""),
    }
    return TrainSettings(**{**base, **changes})  # type: ignore[arg-type]
