"""Kohya's keys to the trainer's settings, with sd-scripts' defaults where a key is missing."""

from __future__ import annotations

import math
import os
from collections import Counter

from ..dataset.buckets import BucketSettings, place
from ..dataset.images import read_size
from ..dataset.mask_files import MASKS
from ..dataset.samples import Dataset
from ..settings.options import (
    HUBER_SCHEDULES,
    LOSSES,
    CaptionSettings,
    ImageSettings,
    LossSettings,
)
from ..settings.run_options import SavingSettings, ValidationSettings
from ..settings.training import TrainSettings
from ..training.batches import steps_per_epoch
from .network import read_network
from .optimizer import read_optimizer
from .values import Fields, Keys

_CACHED_TEXT = ("cache_text_encoder_outputs", "cache_text_encoder_outputs_to_disk")


def read_settings(keys: Keys, dataset: Dataset | None, overrides: Fields, processes: int = 1) -> TrainSettings:
    """The settings; refused and idle keys are noted in ``keys``. ``dataset``: None where it is not known yet.

    Raises:
        SettingsError: a value that no run can have.
    """
    fields: Fields = {
        **_files(keys),
        **_images(keys, overrides.pop("resolution", None)),
        **_precision(keys),
        "told_crop": "kohya",
    }
    fields["batch_size"] *= processes  # type: ignore[operator]
    network_arguments = keys.arguments("network_args")
    fields |= read_network(keys, network_arguments)
    fields["seed"] = overrides.get("seed", fields["seed"])
    fields |= _length(keys, fields, dataset, overrides.get("steps"))
    fields |= overrides
    fields |= read_optimizer(keys, network_arguments, fields)
    # tools write arguments that are off as well
    if left := [f"{k}={v}" for k, v in network_arguments.items() if not _is_nothing(v)]:
        keys.refuse("network_args", f"'{left[0]}' has no counterpart here; remove it")
    fields |= {"loss": _loss(keys, dataset), "captions": _captions(keys)}
    settings = TrainSettings(**fields)  # type: ignore[arg-type]
    if settings.trains_text:
        for name in filter(keys.given, _CACHED_TEXT):
            keys.refuse(name, "the text encoders are trained; remove it, or set network_train_unet_only")
    return settings


def _is_nothing(value: str) -> bool:
    try:
        return float(value) == 0
    except ValueError:
        return value.lower() in ("false", "none", "")


def _files(keys: Keys) -> Fields:
    keys.choice("save_model_as", "safetensors", ("safetensors",))
    precision = keys.choice("save_precision", "float", ("float", "fp32", "fp16", "bf16"))
    return {
        "output_name": keys.text("output_name", "last"),
        "save_precision": "fp32" if precision == "float" else precision,
        "seed": keys.whole("seed", 0),
    }


def _images(keys: Keys, resolution: object) -> Fields:
    flip, to_disk = keys.flag("flip_aug"), keys.flag("cache_latents_to_disk")
    cached = keys.flag("cache_latents") or to_disk
    return {
        "batch_size": keys.whole("train_batch_size", 1),
        "gradient_accumulation": keys.whole("gradient_accumulation_steps", 1),
        # sd-scripts caches one sample of the posterior and otherwise draws anew
        "latents": "sample_once" if cached else "resample",
        "images": ImageSettings(flip=flip, exif_rotate=False, alpha_background=None),
        "buckets": _buckets(keys, resolution),
    }


def _buckets(keys: Keys, override: object) -> BucketSettings:
    sides = override or _sides(keys)
    if override:
        keys.idle_for("another resolution is given beside the configuration", "resolution")
    if not sides and "resolution" not in keys.refused:
        keys.refuse("resolution", "it is missing; give the side in pixels, such as resolution = 1024")
    resolution = (sides[0], sides[-1]) if sides else (1024, 1024)
    if not keys.flag("enable_bucket"):
        names = ("min_bucket_reso", "max_bucket_reso", "bucket_reso_steps", "bucket_no_upscale")
        keys.idle_for("enable_bucket is off", *names)
        return BucketSettings(resolution, enabled=False)
    no_upscale, step = keys.flag("bucket_no_upscale"), keys.whole("bucket_reso_steps", 64)
    sizes = keys.whole("min_bucket_reso", 256), keys.whole("max_bucket_reso", 1024)
    if no_upscale:
        keys.idle_for("with bucket_no_upscale a bucket follows from its image", "min_bucket_reso", "max_bucket_reso")
    return BucketSettings(resolution, *sizes, step=step, no_upscale=no_upscale)


def _sides(keys: Keys) -> list[int]:
    sides = keys.numbers("resolution")
    if len(sides) > 2 or any(side != side or side % 1 for side in sides):
        keys.refuse("resolution", "it must be one or two whole numbers of pixels")
        return []
    return [int(side) for side in sides]


def _precision(keys: Keys) -> Fields:
    precision = keys.choice("mixed_precision", "no", ("no", "fp16", "bf16"))
    fp8, fp8_unet = keys.flag("fp8_base"), keys.flag("fp8_base_unet")
    return {
        "precision": "fp32" if precision == "no" else precision,
        "gradient_checkpointing": keys.flag("gradient_checkpointing"),
        "compile_blocks": keys.flag("torch_compile"),
        "base_storage": "fp8" if fp8 or fp8_unet else "as given",
    }


def _length(keys: Keys, fields: Fields, dataset: Dataset | None, override: object) -> Fields:
    """Steps, epochs and held-out images: what depends on how many images there are."""
    share = keys.number("validation_split", 0.0)
    held_out = _held_out(dataset, share) if dataset else 0
    per_epoch = None
    if dataset is not None:
        per_epoch = kohya_steps_per_epoch(dataset.split(held_out, fields["seed"])[0], fields)  # type: ignore[arg-type]
    epochs, steps = keys.whole("max_train_epochs", 0), keys.whole("max_train_steps", 1600)
    unknown = "depends on the images; connect the dataset"
    if epochs < 0:
        keys.refuse("max_train_epochs", "it must be a whole number of at least 1")
    if override is not None:
        steps = int(override)  # type: ignore[call-overload]
    elif epochs > 0:
        keys.idle_for("max_train_epochs decides", "max_train_steps")
        steps = epochs * (per_epoch or 1)
        if per_epoch is None:
            keys.refuse("max_train_epochs", f"how many steps that is {unknown}")
    every, ratio = keys.whole("save_every_n_epochs", 0), keys.whole("save_n_epoch_ratio", 0)
    if ratio > 0:
        every = max(1, -(-steps // (per_epoch or 1)) // ratio)
        if per_epoch is None:
            keys.refuse("save_n_epoch_ratio", f"how many epochs there are {unknown}")
    if share and dataset is None:
        keys.refuse("validation_split", f"how many images that is {unknown}")
    return {
        "steps": steps,
        "save_every_epochs": every,
        "saving": SavingSettings(lora_steps=keys.whole("save_every_n_steps", 0)),
        "validation_images": held_out,
        "validation": _validation(keys, held_out, per_epoch),
    }


def _held_out(dataset: Dataset, share: float) -> int:
    """How many images sd-scripts holds out of all folders (split_train_val), none of them for regularisation."""
    return sum(count - math.ceil(count * (1 - share)) for count in learnt_of_folders(dataset))


def learnt_of_folders(dataset: Dataset) -> list[int]:
    """How many images each folder has that are not for regularisation."""
    learnt = (sample for sample in dataset.samples if not sample.regularisation)
    return list(Counter(os.path.dirname(sample.path) for sample in learnt).values())


def _validation(keys: Keys, held_out: int, per_epoch: int | None) -> ValidationSettings:
    in_steps, in_epochs = "validate_every_n_steps", "validate_every_n_epochs"
    if not held_out:
        keys.idle_for("no images are held out", in_steps, in_epochs)
        return ValidationSettings()
    if every := keys.whole(in_steps, 0):
        # sd-scripts measures at both distances; what is learnt depends on neither
        keys.idle_for(f"{in_steps} decides", in_epochs)
    else:
        every = keys.whole(in_epochs, 1) * (per_epoch or 0)
    return ValidationSettings(every=every, keep_best=False)


def kohya_steps_per_epoch(dataset: Dataset, fields: Fields) -> int:
    """Optimizer steps that show every image as often as it repeats; images are not turned by EXIF."""
    buckets: BucketSettings = fields["buckets"]  # type: ignore[assignment]
    places = [place(*read_size(s.path, exif_rotate=False), buckets).bucket for s in dataset.samples]
    repeats = [sample.repeats for sample in dataset.samples]
    return steps_per_epoch(places, repeats, fields["batch_size"], fields["gradient_accumulation"])  # type: ignore[arg-type]


def _loss(keys: Keys, dataset: Dataset | None) -> LossSettings:
    kind = keys.choice("loss_type", "l2", LOSSES)
    loss: Fields = {"kind": kind, "min_snr_gamma": keys.number("min_snr_gamma", 0.0)}
    if kind == "l2":
        keys.idle_for("loss_type is l2", "huber_c", "huber_schedule", "huber_scale")
    else:
        loss["huber_c"] = keys.number("huber_c", 0.1)
        loss["huber_schedule"] = keys.choice("huber_schedule", "snr", HUBER_SCHEDULES)
        if keys.number("huber_scale", 1.0) != 1:
            keys.refuse("huber_scale", "the pseudo-Huber loss has no further scale; set it to 1")
    loss |= {
        "debiased": keys.flag("debiased_estimation_loss"),
        "v_prediction_like_noise": keys.flag("scale_v_pred_loss_like_noise_pred"),
        "min_timestep": keys.whole("min_timestep", 0),
        "max_timestep": keys.whole("max_timestep", 1000),
        "mask": _mask(keys, dataset),
        "prior_weight": keys.number("prior_loss_weight", 1.0),
    }
    return LossSettings(**loss, **_noise(keys))  # type: ignore[arg-type]


def _noise(keys: Keys) -> Fields:
    offset, pyramid = keys.number("noise_offset", 0.0), keys.whole("multires_noise_iterations", 0)
    perturbation = keys.number("ip_noise_gamma", 0.0)
    out: Fields = {"noise_offset": offset, "pyramid_iterations": pyramid, "input_perturbation": perturbation}
    if offset:
        out["noise_offset_random"] = keys.flag("noise_offset_random_strength")
        out["adaptive_noise_scale"] = keys.number("adaptive_noise_scale", 0.0)
    keys.idle_for("noise_offset is off", "noise_offset_random_strength", "adaptive_noise_scale", unread=True)
    if pyramid:
        out["pyramid_discount"] = keys.number("multires_noise_discount", 0.3)
    keys.idle_for("multires_noise_iterations is not set", "multires_noise_discount", unread=True)
    if perturbation:
        out["input_perturbation_random"] = keys.flag("ip_noise_gamma_random_strength")
    keys.idle_for("ip_noise_gamma is off", "ip_noise_gamma_random_strength", unread=True)
    return out


def is_folder_of_masks(path: object) -> bool:
    """Whether it ends in the name that such a folder must have."""
    return str(path).rstrip("/\\").replace("\\", "/").rpartition("/")[2] == MASKS


def _mask(keys: Keys, dataset: Dataset | None) -> str:
    alpha, masked, folder = keys.flag("alpha_mask"), keys.flag("masked_loss"), keys.text("conditioning_data_dir")
    if not masked:
        keys.idle_for("masked_loss is off", "conditioning_data_dir")
        return "alpha" if alpha else "none"
    if folder and not is_folder_of_masks(folder):
        keys.refuse("conditioning_data_dir", "masks are read from a folder 'masks' beside the images; move them there")
    elif folder and dataset and not any(sample.mask for sample in dataset.samples):
        why = f"no image has a mask of its name in a folder '{MASKS}' beside it; move '{folder}' there"
        keys.refuse("conditioning_data_dir", why)
    if not (alpha or folder):
        keys.refuse("masked_loss", "there are no masks; set alpha_mask, or conditioning_data_dir to a folder 'masks'")
    return "files" if folder else "alpha"


def _captions(keys: Keys) -> CaptionSettings:
    captions: Fields = {
        "shuffle": keys.flag("shuffle_caption"),
        "dropout": keys.number("caption_dropout_rate", 0.0),
        "tag_dropout": keys.number("caption_tag_dropout_rate", 0.0),
        "dropout_every_epochs": keys.whole("caption_dropout_every_n_epochs", 0),
        "wildcards": keys.flag("enable_wildcard"),
        "tokens": keys.whole("max_token_length", 75),
    }
    # without the key a mark is text, as it is where no tags move
    captions["keep_separator"] = ""
    if captions["tokens"] != 75:
        captions["long_captions"] = "kohya"
    if captions["shuffle"] or captions["tag_dropout"]:
        captions |= {
            "keep_tokens": keys.whole("keep_tokens", 0),
            "keep_separator": keys.text("keep_tokens_separator"),
            "separator": keys.text("caption_separator", ","),
        }
    reason = "tags are neither shuffled nor dropped"
    keys.idle_for(reason, "keep_tokens", "keep_tokens_separator", "caption_separator", unread=True)
    return CaptionSettings(**captions)  # type: ignore[arg-type]
