"""Optimizers and schedules, all from kept libraries."""

from __future__ import annotations

import importlib
import inspect
from difflib import get_close_matches

import torch
from diffusers.optimization import get_scheduler
from torch import nn
from transformers.optimization import Adafactor

from ..adapters.adapters import Adapters
from ..adapters.narrow import NarrowWeights
from ..device import has_all_kernels
from ..errors import SettingsError
from ..settings.arguments import parse_arguments
from ..settings.optimizer_names import class_name
from ..settings.training import TrainSettings
from .adafactor import StackedAdafactor
from .adamw import JoinedAdamW
from .tree import flatten

_PACKAGES = {"pytorch_optimizer": "pytorch-optimizer", "bitsandbytes": "bitsandbytes"}
# what every run gives by itself
_GIVEN = ("self", "params", "lr")
# bitsandbytes keeps smaller tensors in fp32
_PROBE_SIDE = 64
# values whose squares are added up at once
_NORM_PIECE = 2**16
UP = " up"


def group_rate(settings: TrainSettings, group: str) -> float:
    """The rate that the settings give a parameter group: 'unet', 'text', 'te1' or 'te2', with LoRA+ also 'unet up'."""
    options = settings.optimizer_options
    part = group.removesuffix(UP)
    own = {"unet": settings.unet_lr, "te1": options.te1_lr, "te2": options.te2_lr}.get(part)
    rate = settings.text_lr if own is None else own
    return rate * options.lora_plus_ratio if group.endswith(UP) else rate


def parameter_groups(adapters: Adapters, settings: TrainSettings) -> list[dict[str, object]]:
    """One group for each trained part, text encoders first; with LoRA+ a part's up matrices are a group of their own.

    The text encoders are one group, 'text', unless they have rates of their own.
    """
    options = settings.optimizer_options
    apart = options.te1_lr is not None or options.te2_lr is not None
    groups: dict[str, list[nn.Parameter]] = {}
    for module in adapters.modules:
        name = module.part if apart else module.group
        for key, weight in module.weights().items():
            own = options.lora_plus_ratio != 1 and module.is_up(key)
            groups.setdefault(name + UP * own, []).append(weight)
    return [{"params": held, "lr": group_rate(settings, name), "name": name} for name, held in groups.items()]


def optimizer_class(name: str) -> type[torch.optim.Optimizer]:
    """The class behind an optimizer's name.

    Raises:
        SettingsError: the library is not installed, or has no optimizer of that name.
    """
    library, _, attribute = class_name(name).rpartition(".")
    try:
        found = getattr(importlib.import_module(library), attribute, None)
    except ImportError as error:
        package = _PACKAGES.get(library.partition(".")[0], library)
        raise SettingsError(
            f"The optimizer '{name}' needs {package}, which is not installed or does not work here; install it with "
            f"'python -m pip install {package}' or choose adamw."
        ) from error
    if not inspect.isclass(found) or not issubclass(found, torch.optim.Optimizer):
        raise SettingsError(f"{library} has no optimizer '{attribute}'; correct the name or choose adamw.")
    return found


def make_optimizer(
    adapters: Adapters, settings: TrainSettings, narrow: NarrowWeights | None = None
) -> torch.optim.Optimizer:
    """The settings' optimizer over ``parameter_groups``.

    narrow: the weights as the products take them, where they do.

    Raises:
        SettingsError: it is not installed, or does not take the arguments given.
    """
    return _built(parameter_groups(adapters, settings), settings, narrow)


def check_optimizer(settings: TrainSettings, device: torch.device) -> None:
    """Let the settings' optimizer take two steps on one small weight, before anything costs time.

    Raises:
        SettingsError: it is not installed, does not take the arguments given, or steps in another way than a training
            loop does (with a closure, on a whole model, on sparse gradients).
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        # one group in all: some optimizers refuse several rates, and the settings have judged those
        weight = nn.Parameter(torch.full((_PROBE_SIDE, _PROBE_SIDE), 0.01, device=device))
        try:
            optimizer = _built([{"params": [weight], "lr": max(settings.rates), "name": "unet"}], settings)
            if hasattr(optimizer, "train"):
                optimizer.train()
            for _ in range(2):
                weight.grad = torch.full_like(weight, 0.01)
                optimizer.step()
            _check_state(optimizer, settings)
        except SettingsError:
            raise
        except Exception as error:
            raise _unusable(settings, error) from error


def _check_state(optimizer: torch.optim.Optimizer, settings: TrainSettings) -> None:
    held = optimizer.state_dict()
    try:
        flatten(held, "optimizer", {})
        if lost := [name for name in held if name not in ("state", "param_groups")]:
            raise TypeError(f"'{lost[0]}' beside its state and groups")
        if "param_groups" not in held:
            raise TypeError("no groups")
    except TypeError as error:
        raise SettingsError(
            f"The optimizer '{settings.optimizer}' holds what no saved state can ({error}), so that a run could not be "
            "paused or resumed; choose another one, such as adamw."
        ) from error


def own_weight_decay(name: str) -> float:
    """The weight decay that an optimizer's class has by itself; 0 where it has none or is not there."""
    try:
        parameter = inspect.signature(optimizer_class(name)).parameters.get("weight_decay")
    except SettingsError:
        return 0.0
    default = None if parameter is None else parameter.default
    return float(default) if isinstance(default, int | float) else 0.0


def _unusable(settings: TrainSettings, error: Exception) -> SettingsError:
    why = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    return SettingsError(
        f"The optimizer '{settings.optimizer}' cannot be used here: not even a step on one small weight works ({why}); "
        "choose another one, such as adamw."
    )


def _built(
    groups: list[dict[str, object]], settings: TrainSettings, narrow: NarrowWeights | None = None
) -> torch.optim.Optimizer:
    found = optimizer_class(settings.optimizer)
    arguments: dict[str, object] = {"lr": max(group["lr"] for group in groups)}  # type: ignore[type-var]
    if "weight_decay" in inspect.signature(found).parameters:
        arguments["weight_decay"] = settings.weight_decay
    device = groups[0]["params"][0].device  # type: ignore[index]
    if settings.optimizer == "adamw" and has_all_kernels(device):
        arguments["fused"] = True
    if found is Adafactor:
        if device.type == "cuda":
            found = StackedAdafactor
        own = settings.adafactor_relative_step
        arguments |= {"scale_parameter": own, "relative_step": own, "warmup_init": False}
        if own:
            arguments["lr"] = None
            for group in groups:
                group["lr"] = None
    arguments |= _own_arguments(found, settings)
    try:
        if found is torch.optim.AdamW and narrow is not None and narrow.trained is not None:
            return JoinedAdamW(groups, narrow, **arguments)
        return found(groups, **arguments)
    except (TypeError, ValueError, NotImplementedError) as error:
        text = settings.optimizer_options.arguments
        if not text:
            raise _unusable(settings, error) from error
        raise SettingsError(
            f"{found.__name__} does not take the arguments '{text}' ({error}); correct them or leave them empty."
        ) from error


def _own_arguments(found: type[torch.optim.Optimizer], settings: TrainSettings) -> dict[str, object]:
    """The settings' arguments, each of which the class must name: many take any others and never look at them.

    Raises:
        SettingsError: an argument that the class does not name.
    """
    given = parse_arguments(settings.optimizer_options.arguments)
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    known = [name for name, one in inspect.signature(found).parameters.items() if one.kind not in kinds]
    known = [name for name in known if name not in _GIVEN]
    if "lr" in given:
        raise SettingsError("The argument 'lr' has no effect: the learning rates of the settings count; remove it.")
    if wrong := next((name for name in given if name not in known), None):
        near = [name for name in known if wrong in name or name in wrong] or get_close_matches(wrong, known, 1, 0.75)
        cure = f"write {near[0]} if that is meant" if near else f"it takes {', '.join(known)}"
        raise SettingsError(f"{found.__name__} has no argument '{wrong}'; {cure}, or remove it.")
    return given


def make_schedule(
    optimizer: torch.optim.Optimizer, settings: TrainSettings
) -> torch.optim.lr_scheduler.LRScheduler | None:
    """diffusers' schedule; None where the optimizer sets its own rates."""
    if settings.adafactor_relative_step:
        return None
    # both are the same with a warm-up of 0 steps
    name = "constant_with_warmup" if settings.schedule == "constant" else settings.schedule
    options = settings.optimizer_options
    return get_scheduler(
        name,
        optimizer,
        step_rules=options.step_rules or None,
        num_warmup_steps=settings.warmup_steps,
        num_training_steps=settings.steps,
        num_cycles=options.cycles,
        power=options.power,
    )


def effective_rates(optimizer: torch.optim.Optimizer, parameter_cap: int | None = None) -> dict[str, float]:
    """The rate that each group's weights really see, by group name.

    Adafactor with relative_step sets one rate a tensor, min(1e-2, 1/√t)·max(1e-3, RMS(p)): their mean is given.
    Prodigy multiplies every rate by its estimate d.
    """
    rates = {}
    for group in optimizer.param_groups:
        if isinstance(optimizer, Adafactor) and group.get("relative_step"):
            states = [optimizer.state.get(p, {}) for p in group["params"][:parameter_cap]]
            states = [state for state in states if "RMS" in state]
            # read at once: each look at a GPU waits for it
            sizes = torch.stack([torch.as_tensor(state["RMS"]) for state in states]).tolist() if states else []
            # _get_lr is private by name only: it is the one place that knows the formula
            values = [Adafactor._get_lr(group, {**s, "RMS": size}) for s, size in zip(states, sizes, strict=True)]
            rates[group["name"]] = sum(values) / len(values) if values else 0.0
        else:
            rates[group["name"]] = float(group["lr"]) * float(group.get("d", 1.0))
    return rates


def gradient_norm(parameters: list[nn.Parameter], maximum: float, joined: torch.Tensor | None = None) -> torch.Tensor:
    """Clip the joint gradient norm in place and return the norm before it; ``maximum`` 0 only measures.

    joined: all gradients as one tensor, where they are one.
    """
    if joined is not None:
        return _joined_norm(joined, maximum)
    # None: as torch does elsewhere, where asking for it may be an error
    foreach = True if has_all_kernels(parameters[0].device) else None
    return nn.utils.clip_grad_norm_(parameters, maximum if maximum > 0 else float("inf"), foreach=foreach)


def _joined_norm(gradient: torch.Tensor, maximum: float) -> torch.Tensor:
    """What torch's clip_grad_norm_ does, without thousands of operations."""
    # in pieces: one fp32 sum of thirty million squares is off by 0.16 %
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradient.split(_NORM_PIECE))))
    # a GPU would have to be waited for
    if maximum > 0 and not (gradient.device.type == "cpu" and norm <= maximum):
        gradient.mul_((maximum / (norm + 1e-6)).clamp(max=1.0))
    return norm
