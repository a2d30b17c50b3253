"""What a kohya configuration comes to: its length, the rates that take effect, and the fate of every key."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..dataset.samples import Dataset
from ..settings.training import TrainSettings
from ..training.batches import effective_epochs, images_of_a_step
from .configuration import KohyaRun
from .settings import kohya_steps_per_epoch, learnt_of_folders

Tokenize = Callable[[str], Sequence[int]]


def report(run: KohyaRun, dataset: Dataset | None, tokenize: Tokenize | None = None) -> str:
    """What the configuration comes to: length, rates that take effect, and every key's fate.

    dataset: gives epochs and steps an epoch; None leaves them to the report of the training.
    tokenize: a caption to CLIP's ids with start and end; with a dataset it tells how many tokens are cut.
    """
    settings = run.settings
    lines = [*_length_lines(run, dataset), *rate_lines(settings)]
    if dataset is not None and tokenize is not None:
        lines.append(_cut_line(settings, [len(tokenize(sample.caption)) - 2 for sample in dataset.samples]))
    lines += _deviations(run, dataset)
    if "seed" not in run.values:
        lines.append(f"seed is not given, and sd-scripts would draw one; {settings.seed} is taken.")
    lines.append(f"Honoured: {len(run.honoured)} keys.")
    lines += [f"  {name} = {value}" for name, value in sorted(run.honoured.items())]
    lines.append(f"Without effect in this run: {len(run.idle)} keys.")
    lines += [f"  {name}: {reason}" for name, reason in sorted(run.idle.items())]
    return "\n".join(lines)


def _length_lines(run: KohyaRun, dataset: Dataset | None) -> list[str]:
    settings = run.settings
    asked = settings.batch_size * settings.gradient_accumulation
    if dataset is None:
        images = images_of_a_step(asked, asked)
        return [f"{settings.steps} steps of {images}; connect the dataset to know how many epochs that is."]
    training, _ = dataset.split(settings.validation_images, settings.seed)
    needed = {name: getattr(settings, name) for name in ("buckets", "batch_size", "gradient_accumulation")}
    per_epoch = kohya_steps_per_epoch(training, needed)
    epochs = effective_epochs(settings.steps, per_epoch)
    images = images_of_a_step(asked, sum(sample.repeats for sample in training.samples) / per_epoch)
    lines = [f"{settings.steps} steps of {images}: {epochs:.2f} epochs of {per_epoch} steps."]
    if "epoch" in run.idle and "max_train_epochs" not in run.honoured:
        fate = f"The GUI's epoch = {run.values['epoch']} does not count"
        lines.append(f"{fate}: the steps decide, and the run is {epochs:.2f} epochs long.")
    return lines


def _deviations(run: KohyaRun, dataset: Dataset | None) -> list[str]:
    """Where this trainer does on purpose what sd-scripts does not."""
    loss, lines = run.settings.loss, []
    if (held_out := run.settings.validation_images) and dataset and len(learnt_of_folders(dataset)) > 1:
        lines.append(
            f"The {held_out} held-out image{'s are' if held_out > 1 else ' is'} drawn from all folders together; "
            "sd-scripts draws of each folder its share."
        )
    if run.places.zero_terminal_snr and (loss.min_snr_gamma or loss.debiased or loss.v_prediction_like_noise):
        lines.append(
            "Weights of the loss follow the SNR of the rescaled noise levels; sd-scripts takes that of the levels "
            "before zero_terminal_snr rescales them."
        )
    if (count := run.settings.gradient_accumulation) > 1:
        lines.append(
            f"A step at the end of an epoch that has fewer than {count} batches is their mean; sd-scripts divides "
            f"their sum by {count}."
        )
    return lines


def _cut_line(settings: TrainSettings, lengths: list[int]) -> str:
    most = settings.captions.tokens
    cut = [length - most for length in lengths if length > most]
    return f"{len(cut)} of {len(lengths)} captions are longer than {most} tokens; {sum(cut)} tokens are cut."


def rate_lines(settings: TrainSettings) -> list[str]:
    """The learning rate that each group's weights really see."""
    if settings.adafactor_relative_step:
        written = f"{settings.unet_lr:g} (U-Net)" + f" and {settings.text_lr:g} (text encoders)" * settings.trains_text
        return [
            f"Effective learning rates: Adafactor sets min(1e-2, 1/√t)·max(1e-3, RMS) for each tensor, so up matrices "
            f"start at 1e-05 and down matrices at {_start(5120)} to {_start(640)} (U-Net)"
            + (f" or {_start(5120)} to {_start(768)} (text encoders)" if settings.trains_text else "")
            + f"; the {written} that are written never touch a weight."
        ]
    named = [("U-Net", settings.unet_lr)]
    if settings.trains_text:
        options = settings.optimizer_options
        own = {"CLIP-L": options.te1_lr, "bigG": options.te2_lr}
        apart = any(rate is not None for rate in own.values())
        named += [(n, settings.text_lr if r is None else r) for n, r in own.items()] if apart else []
        named += [] if apart else [("text encoders", settings.text_lr)]
    told = ", ".join(f"{name} {rate:g}" for name, rate in named)
    peak = "" if settings.schedule == "constant" else f" at their highest, on the schedule {settings.schedule}"
    return [f"Effective learning rates: {told}{peak}."]


def _start(inputs: int) -> str:
    """Adafactor's first rate of a down matrix: 0.01 times the RMS of a uniform distribution within 1/√inputs."""
    return f"{0.01 / (3 * inputs) ** 0.5:.2g}"
