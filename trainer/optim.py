"""Optimizers and schedules, all from kept libraries."""

from __future__ import annotations

import torch
from diffusers.optimization import get_scheduler
from torch import nn
from transformers.optimization import Adafactor

from .adapter import Adapters
from .settings import TrainSettings


def group_rate(settings: TrainSettings, group: str) -> float:
    return settings.unet_lr if group == "unet" else settings.text_lr


def make_optimizer(adapters: Adapters, settings: TrainSettings) -> torch.optim.Optimizer:
    """One parameter group for each trained part, named ``text`` or ``unet``."""
    groups = [
        {"params": adapters.parameters(name), "lr": group_rate(settings, name), "name": name}
        for name in adapters.groups()
    ]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, weight_decay=settings.weight_decay, fused=True)
    if settings.adafactor_relative_step:
        for group in groups:
            group["lr"] = None
    return Adafactor(
        groups,
        lr=None,
        scale_parameter=settings.adafactor_relative_step,
        relative_step=settings.adafactor_relative_step,
        warmup_init=False,
        weight_decay=settings.weight_decay,
    )


def make_schedule(
    optimizer: torch.optim.Optimizer, settings: TrainSettings
) -> torch.optim.lr_scheduler.LRScheduler | None:
    """diffusers' schedule; None where the optimizer sets its own rates."""
    if settings.adafactor_relative_step:
        return None
    name = "constant_with_warmup" if settings.schedule == "constant" else "cosine"
    return get_scheduler(name, optimizer, num_warmup_steps=settings.warmup_steps, num_training_steps=settings.steps)


def effective_rates(optimizer: torch.optim.Optimizer, parameter_cap: int | None = None) -> dict[str, float]:
    """The rate that each group's weights really see, by group name.

    Adafactor with relative_step sets one rate a tensor, min(1e-2, 1/√t)·max(1e-3, RMS(p)): their mean is given.
    """
    rates = {}
    for group in optimizer.param_groups:
        if group.get("relative_step"):
            chosen = [p for p in group["params"] if "RMS" in optimizer.state.get(p, {})][:parameter_cap]
            values = [_relative_rate(group, optimizer.state[p]) for p in chosen]
            rates[group["name"]] = sum(values) / len(values) if values else 0.0
        else:
            rates[group["name"]] = float(group["lr"])
    return rates


def _relative_rate(group: dict[str, object], state: dict[str, object]) -> float:
    # get_lr is private by name only: it is the one place that knows the formula
    return float(Adafactor._get_lr(group, state))


def gradient_norm(parameters: list[nn.Parameter], maximum: float) -> torch.Tensor:
    """Clip the joint gradient norm in place and return the norm before it; ``maximum`` 0 only measures."""
    return nn.utils.clip_grad_norm_(parameters, maximum if maximum > 0 else float("inf"), foreach=True)
