"""What a LoRA file says about itself: kohya's ``ss_`` entries, Stability's ``modelspec.`` and our run's hash."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone

from ..dataset.samples import Dataset, printable
from ..settings.optimizer_names import class_name
from ..settings.options import AdapterSettings
from ..settings.training import TrainSettings
from ..training.data import Example
from .header import TAGS_KEY

RUN_KEY = "mjesec_run"
THUMBNAILS_KEY = "mjesec_thumbnails"
_KOHYA_PRECISION = {"fp16": "fp16", "bf16": "bf16", "fp32": "no"}


@dataclass(frozen=True)
class RunFacts:
    """What the metadata need besides settings and samples."""

    run: str
    name: str
    base_name: str
    started: float
    finished: float
    step: int
    epoch: int
    epochs: int
    steps_per_epoch: int
    prediction: str
    base_hashes: Mapping[str, str] = field(default_factory=dict)


def lora_metadata(
    settings: TrainSettings, dataset: Dataset, examples: tuple[Example, ...], facts: RunFacts
) -> dict[str, str]:
    """Metadata, every value a string, as kohya-ss/sd-scripts' train_network.py and sai_model_spec.py write them."""
    text, relative = settings.trains_text, settings.adafactor_relative_step
    width, height = settings.buckets.resolution
    rank_fold, alpha_fold = _folds(settings)
    return {
        RUN_KEY: facts.run,
        "ss_session_id": str(int(facts.run[:8], 16)),
        "ss_training_started_at": str(facts.started),
        "ss_training_finished_at": str(facts.finished),
        "ss_output_name": facts.name,
        # as sd-scripts: rates that no weight sees are none, and the schedule has the name of who sets them
        "ss_learning_rate": str(None if relative else settings.unet_lr),
        "ss_text_encoder_lr": str(settings.text_lr if text and not relative else None),
        "ss_unet_lr": str(None if relative else settings.unet_lr),
        "ss_num_train_images": str(sum(s.repeats for s in dataset.samples if not s.regularisation)),
        "ss_num_reg_images": str(sum(s.repeats for s in dataset.samples if s.regularisation)),
        "ss_num_batches_per_epoch": str(facts.steps_per_epoch * settings.gradient_accumulation),
        "ss_num_epochs": str(facts.epochs),
        "ss_epoch": str(facts.epoch),
        "ss_steps": str(facts.step),
        "ss_gradient_checkpointing": str(settings.gradient_checkpointing),
        "ss_gradient_accumulation_steps": str(settings.gradient_accumulation),
        "ss_max_train_steps": str(settings.steps),
        "ss_lr_warmup_steps": str(settings.warmup_steps),
        "ss_lr_scheduler": f"adafactor:{settings.unet_lr}" if relative else settings.schedule,
        "ss_network_module": "networks.lora" if settings.adapter.kind == "lora" else "lycoris.kohya",
        "ss_network_args": json.dumps(_network_arguments(settings)),
        "ss_network_dim": str(settings.rank * rank_fold),
        "ss_network_alpha": str(settings.alpha * alpha_fold),
        "ss_network_dropout": str(settings.adapter.dropout or None),
        "ss_mixed_precision": _KOHYA_PRECISION[settings.precision],
        "ss_full_fp16": "False",
        "ss_v2": "False",
        "ss_base_model_version": "sdxl_base_v1-0",
        "ss_clip_skip": "None",
        "ss_shuffle_caption": str(settings.captions.shuffle),
        "ss_keep_tokens": str(settings.captions.keep_tokens),
        "ss_caption_dropout_rate": str(settings.captions.dropout),
        "ss_caption_tag_dropout_rate": str(settings.captions.tag_dropout),
        "ss_caption_dropout_every_n_epochs": str(settings.captions.dropout_every_epochs),
        "ss_flip_aug": str(settings.images.flip),
        "ss_max_token_length": str(settings.captions.tokens if settings.captions.tokens > 75 else None),
        "ss_cache_latents": "True",
        "ss_seed": str(settings.seed),
        "ss_noise_offset": str(settings.loss.noise_offset or None),
        "ss_min_snr_gamma": str(settings.loss.min_snr_gamma or None),
        "ss_loss_type": settings.loss.kind,
        "ss_huber_schedule": settings.loss.huber_schedule,
        "ss_huber_c": str(settings.loss.huber_c),
        "ss_multires_noise_iterations": str(settings.loss.pyramid_iterations or None),
        "ss_multires_noise_discount": str(settings.loss.pyramid_discount),
        "ss_adaptive_noise_scale": str(settings.loss.adaptive_noise_scale or None),
        "ss_ip_noise_gamma": str(settings.loss.input_perturbation or None),
        "ss_debiased_estimation": str(settings.loss.debiased),
        "ss_prior_loss_weight": str(settings.loss.prior_weight),
        "ss_optimizer": _optimizer_name(settings),
        "ss_max_grad_norm": str(settings.max_grad_norm),
        "ss_batch_size_per_device": str(settings.batch_size),
        "ss_resolution": str((width, height)),
        "ss_enable_bucket": str(settings.buckets.enabled),
        "ss_bucket_no_upscale": str(settings.buckets.no_upscale),
        "ss_min_bucket_reso": str(settings.buckets.min_size),
        "ss_max_bucket_reso": str(settings.buckets.max_size),
        "ss_bucket_info": json.dumps(_bucket_info(examples)),
        "ss_dataset_dirs": json.dumps(_folders(dataset, regularisation=False), ensure_ascii=False),
        "ss_reg_dataset_dirs": json.dumps(_folders(dataset, regularisation=True), ensure_ascii=False),
        TAGS_KEY: json.dumps(_tag_frequency(dataset), ensure_ascii=False),
        "ss_sd_model_name": facts.base_name,
        **facts.base_hashes,
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
        "modelspec.title": facts.name,
        "modelspec.date": datetime.fromtimestamp(int(facts.finished), timezone.utc).replace(tzinfo=None).isoformat(),
        "modelspec.resolution": f"{width}x{height}",
        "modelspec.prediction_type": "epsilon" if facts.prediction == "epsilon" else "v",
        "modelspec.timestep_range": f"{settings.loss.min_timestep},{settings.loss.max_timestep}",
        **({"modelspec.trigger_phrase": settings.captions.trigger} if settings.captions.trigger else {}),
    }


def _network_arguments(settings: TrainSettings) -> dict[str, str]:
    """What kohya's network_args would be: only what is not at its default."""
    adapter, usual = settings.adapter, AdapterSettings()
    rank_fold, alpha_fold = _folds(settings)
    named = {
        "algo": adapter.kind,
        "conv_dim": adapter.conv_rank * rank_fold,
        "conv_alpha": adapter.conv_alpha * alpha_fold if adapter.conv_rank else usual.conv_alpha,
        "rank_dropout": adapter.rank_dropout,
        "module_dropout": adapter.module_dropout,
        "factor": adapter.lokr_factor,
        "dora_wd": adapter.dora,
        "rs_lora": adapter.rank_stabilized,
    }
    plain = (usual.kind, usual.conv_rank, usual.conv_alpha, 0.0, 0.0, usual.lokr_factor, False, False)
    return {key: str(value) for (key, value), own in zip(named.items(), plain, strict=True) if value != own}


def _folds(settings: TrainSettings) -> tuple[int, float]:
    """How many times the settings' rank and alpha a file has: what PiSSA learns is a LoRA of twice the rank.

    Its scale stays alpha / rank, or alpha / √rank with rs_lora.
    """
    fold = 2 if settings.adapter.initial == "pissa" else 1
    return fold, fold ** (0.5 if settings.adapter.rank_stabilized else 1)


def _optimizer_name(settings: TrainSettings) -> str:
    told = [settings.optimizer_options.arguments] if settings.optimizer_options.arguments else []
    if settings.optimizer == "adamw":
        return f"torch.optim.adamw.AdamW({', '.join([f'weight_decay={settings.weight_decay}', *told])})"
    if settings.optimizer == "adafactor":
        own = f"relative_step={settings.adafactor_relative_step}"
        return f"transformers.optimization.Adafactor({', '.join([own, *told])})"
    return f"{class_name(settings.optimizer)}({', '.join([f'weight_decay={settings.weight_decay}', *told])})"


def _bucket_info(examples: tuple[Example, ...]) -> dict[str, object]:
    counts: Counter[tuple[int, int]] = Counter()
    for example in examples:
        counts[example.placement.bucket] += example.sample.repeats
    buckets = {str(i): {"resolution": list(size), "count": counts[size]} for i, size in enumerate(sorted(counts))}
    return {"buckets": buckets}


def _folders(dataset: Dataset, *, regularisation: bool) -> dict[str, dict[str, int]]:
    """Repeats and number of the images of each folder that holds some."""
    out: dict[str, dict[str, int]] = {}
    names = _folder_names(dataset)
    for sample in dataset.samples:
        if sample.regularisation == regularisation:
            known = out.setdefault(names[os.path.dirname(sample.path)], {"n_repeats": sample.repeats, "img_count": 0})
            known["img_count"] += 1
    return out


def _folder_names(dataset: Dataset) -> dict[str, str]:
    """Each folder's own name, never the way to it; of two of the same name the second is ``name (2)``, as kohya's."""
    out: dict[str, str] = {}
    for sample in dataset.samples:
        if (folder := os.path.dirname(sample.path)) in out:
            continue
        plain = printable(os.path.basename(folder)) or "images"
        number, name = 2, plain
        while name in out.values():
            number, name = number + 1, f"{plain} ({number})"
        out[folder] = name
    return out


def _tag_frequency(dataset: Dataset) -> dict[str, dict[str, int]]:
    """In how many captions of each folder each tag stands, in lower case as kohya counts them."""
    names = _folder_names(dataset)
    counts: dict[str, Counter[str]] = {}
    for sample in dataset.samples:
        tags = (tag for part in sample.caption.split(",") if (tag := part.strip().lower()))
        counts.setdefault(names[os.path.dirname(sample.path)], Counter()).update(tags)
    return {folder: dict(counted.most_common()) for folder, counted in counts.items()}
