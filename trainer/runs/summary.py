"""What a run tells the user, before and after: numbers that were asked for beside those that take effect."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from ..dataset.report import dataset_report
from ..dataset.samples import Dataset
from ..sdxl.precision import DTYPES, compute_dtype
from ..sdxl.speed import floor_flops, speed_line
from ..settings.training import TrainSettings
from ..shortage import is_out_of_memory
from ..training.batches import images_of_a_step
from ..training.caption_variants import fixed_caption
from ..training.data import Example, Plan, Tokenize
from ..training.loop import Trainer
from ..training.optim import effective_rates, group_rate


def plan_lines(settings: TrainSettings, dataset: Dataset, tokenize: Tokenize, plan: Plan) -> list[str]:
    """Before training: the data as they will be seen, the length, and numbers that will not do what they seem to."""
    captions = settings.captions
    images = images_of_a_step(settings.batch_size * settings.gradient_accumulation, plan.images_per_step)

    def count_tokens(caption: str) -> int:
        return len(tokenize(fixed_caption(caption, captions))) - 2

    lines = [
        dataset_report(dataset, count_tokens, settings.buckets, captions.tokens),
        f"{settings.steps} steps of {images}: {plan.epochs:.2f} epochs of {plan.steps_per_epoch} steps.",
    ]
    if settings.images.more_resolutions:
        sides = ", ".join(map(str, settings.images.more_resolutions))
        lines.append(f"Images that are large enough are also trained at {sides} pixels; epochs count them all.")
    if settings.adafactor_relative_step:
        lines.append(
            f"Adafactor with relative_step sets its own rates: the learning rates {settings.unet_lr:g} (U-Net) and "
            f"{settings.text_lr:g} (text encoders) never touch a weight."
        )
        if settings.warmup_steps or settings.schedule != "constant":
            lines.append(
                f"For the same reason the schedule {settings.schedule} and its {settings.warmup_steps} warm-up steps "
                "do nothing."
            )
    if settings.finds_own_rate and settings.unet_lr < 0.1:
        name = settings.optimizer_class
        lines.append(
            f"{name} multiplies its own estimate by the learning rate {settings.unet_lr:g}; it is meant to be 1."
        )
    if settings.optimizer_class.startswith("ScheduleFree") and settings.schedule != "constant":
        lines.append(
            f"{settings.optimizer_class} is made to run without a schedule, and {settings.schedule} lowers its rate "
            "all the same; constant is what it is meant for."
        )
    return lines


def unlike_asked(settings: TrainSettings, examples: Sequence[Example], device: torch.device) -> list[str]:
    """What was asked for and comes to nothing with these images on this device."""
    lines = []
    if compute_dtype(settings.precision, device) != DTYPES[settings.precision]:
        lines.append(f"This CPU has no products in {settings.precision}: they are computed in fp32.")
    if settings.loss.mask != "none" and all(example.mask is None for example in examples):
        source = "is transparent" if settings.loss.mask == "alpha" else "has a mask in a folder 'masks' beside it"
        lines.append(f"No image {source}, so that the loss counts everywhere.")
    return lines


def result_lines(trainer: Trainer, path: Path, held_out: tuple[float, float] | None) -> list[str]:
    """After training: what was made and how the loss on held-out images moved."""
    progress = trainer.progress
    recent = progress.losses[-max(1, len(progress.losses) // 10) :]
    settings = trainer.settings
    if settings.adafactor_relative_step or settings.finds_own_rate:
        rates, when = effective_rates(trainer.optimizer), "effective learning rates at the end"
    else:
        rates = {group["name"]: group_rate(settings, group["name"]) for group in trainer.optimizer.param_groups}
        when = "learning rates" + (" at their highest" if settings.schedule != "constant" else "")
    told = ", ".join(f"{name} {rate:.3g}" for name, rate in rates.items())
    kind = f" ({settings.adapter.kind})" if settings.adapter.kind != "lora" else ""
    mean = sum(recent) / len(recent)
    lines = [
        f"{len(trainer.adapters.modules)} modules{kind} of rank {trainer.adapters.rank}, "
        f"alpha {trainer.adapters.alpha:g}; "
        f"{when}: {told}.",
        f"{progress.step} steps in {progress.seconds:.0f} s; mean loss of the last tenth {mean:.4f}.",
    ]
    if trainer.pace and (speed := _speed(trainer)):
        lines.append(speed)
    if progress.skipped:
        lines.append(f"{progress.skipped} steps overflowed fp16 and were counted but not taken.")
    if held_out is not None:
        base, tuned = held_out
        lines.append(f"Held-out loss: base {base:.5f}, with the LoRA {tuned:.5f}, ratio {tuned / base:.3f}.")
    return [*lines, f"Saved {path.name}."]


def _speed(trainer: Trainer) -> str:
    """A step of as many images as steps have on average, all of the commonest size; empty where the device has no
    room left for the product that it is compared to."""
    settings = trainer.settings
    sizes = Counter(tuple(example.latents.mean.shape[-2:]) for example in trainer.examples)
    rows = trainer.processes.rows(settings.batch_size)
    own = trainer.plan.images_per_step * (rows.stop - rows.start) / settings.batch_size
    image = torch.Size((1, 4, *sizes.most_common(1)[0][0]))
    flops = floor_flops(trainer.parts, image, with_text=settings.trains_text) * own
    try:
        return speed_line(flops, trainer.pace, trainer.device, trainer.dtype)
    except Exception as error:
        if is_out_of_memory(error):
            return ""
        raise
