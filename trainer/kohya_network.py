"""Kohya's keys of network, optimizer and schedule to the trainer's settings."""

from __future__ import annotations

import math

import torch

from .kohya_values import Keys
from .optim import own_weight_decay
from .options import AdapterSettings, OptimizerSettings
from .settings import SCHEDULES

Fields = dict[str, object]
Arguments = dict[str, str]

NETWORKS = {"networks.lora": "lora", "networks.loha": "loha", "networks.lokr": "lokr", "lycoris.kohya": ""}
LYCORIS = {"lora": "lora", "locon": "lora", "loha": "loha", "lokr": "lokr"}
# the only preset of LyCORIS that adapts the layers which sd-scripts' own LoRA adapts
LYCORIS_PRESET = "attn-mlp"
# sd-scripts' names in lower case: this trainer's name, and the class's own weight decay
OPTIMIZERS = {
    "adamw": ("adamw", 0.01),
    "adamw8bit": ("adamw8bit", 0.01),
    "pagedadamw8bit": ("bitsandbytes.optim.PagedAdamW8bit", 0.01),
    "pagedadamw": ("bitsandbytes.optim.PagedAdamW", 0.01),
    "pagedadamw32bit": ("bitsandbytes.optim.PagedAdamW32bit", 0.01),
    "ademamix8bit": ("bitsandbytes.optim.AdEMAMix8bit", 0.01),
    "pagedademamix8bit": ("bitsandbytes.optim.PagedAdEMAMix8bit", 0.01),
    "lion": ("lion", 0.0),
    "lion8bit": ("bitsandbytes.optim.Lion8bit", 0.0),
    "pagedlion8bit": ("bitsandbytes.optim.PagedLion8bit", 0.0),
    "adafactor": ("adafactor", 0.0),
    "prodigy": ("prodigy", 0.0),
    "came": ("came", 0.0),
    "adamwschedulefree": ("schedulefree", 0.0),
    "radamschedulefree": ("pytorch_optimizer.ScheduleFreeRAdam", 0.0),
    "sgdschedulefree": ("pytorch_optimizer.ScheduleFreeSGD", 0.0),
    "dadaptation": ("pytorch_optimizer.DAdaptAdam", 0.0),
    "dadaptadam": ("pytorch_optimizer.DAdaptAdam", 0.0),
    "dadaptadagrad": ("pytorch_optimizer.DAdaptAdaGrad", 0.0),
    "dadaptadan": ("pytorch_optimizer.DAdaptAdan", 0.0),
    "dadaptlion": ("pytorch_optimizer.DAdaptLion", 0.0),
    "dadaptsgd": ("pytorch_optimizer.DAdaptSGD", 0.0),
    "sgdnesterov": ("torch.optim.SGD", 0.0),
}
# arguments of the classes that sd-scripts takes, under the names that this trainer's classes have for them
_RENAMED = {
    "decouple": "weight_decouple",
    "use_bias_correction": "bias_correction",
    # DAdaptAdan's decay outside of its proximal step
    "no_prox": "weight_decouple",
}
# arguments without counterpart: what they are where they are off, and why another value is refused
_OFF = {
    "slice_p": ("1", "Prodigy's estimate is made from whole tensors here"),
    "fsdp_in_use": ("False", "weights are never spread over several devices here"),
    "decoupled_weight_decay": ("False", "Lion's weight decay is scaled by the learning rate here"),
}
_NO_RESULT = {"log_every": "it only prints", "use_triton": "it changes the speed, not the result"}
_SCHEDULE_FREE = "a schedule-free optimizer runs without a schedule"
_ITS_OWN = "Adafactor with relative_step sets its own rates; no weight ever sees this"


def read_network(keys: Keys, arguments: Arguments) -> Fields:
    """Rank, alpha, adapter and trained parts. ``arguments``: network_args, of which what is read is taken out."""
    module = keys.choice("network_module", "networks.lora", NETWORKS)
    kind = NETWORKS[module] or _lycoris(keys, arguments)
    adapter: Fields = {"kind": kind, "dropout": keys.number("network_dropout", 0.0)}
    for name in ("rank_dropout", "module_dropout"):
        adapter[name] = _number(keys, arguments, name, 0.0)
    conv_rank, conv_alpha = _whole(keys, arguments, "conv_dim", 0), _number(keys, arguments, "conv_alpha", 1.0)
    if conv_rank:
        adapter |= {"conv_rank": conv_rank, "conv_alpha": conv_alpha}
    if kind == "lokr":
        adapter["lokr_factor"] = _whole(keys, arguments, "factor", -1)
    if kind == "lora":
        adapter["dora"] = arguments.pop("dora_wd", "false").lower() == "true"
    return {
        "rank": keys.whole("network_dim", 4),
        "alpha": keys.number("network_alpha", 1.0),
        "train": "unet" if keys.flag("network_train_unet_only") else "unet+text",
        "adapter": AdapterSettings(**adapter),  # type: ignore[arg-type]
    }


def _lycoris(keys: Keys, arguments: Arguments) -> str:
    algorithm, preset = arguments.pop("algo", "lora").lower(), arguments.pop("preset", "full")
    if algorithm not in LYCORIS:
        keys.refuse("network_args", f"LyCORIS' algo={algorithm} is not trained here; take {', '.join(LYCORIS)}")
    elif preset != LYCORIS_PRESET:
        cure = f"write preset={LYCORIS_PRESET}"
        keys.refuse("network_args", f"LyCORIS' preset={preset} adapts other layers than this trainer; {cure}")
    return LYCORIS.get(algorithm, "lora")


def _number(keys: Keys, arguments: Arguments, name: str, default: float, key: str = "network_args") -> float:
    text = arguments.pop(name, "None")
    try:
        number = default if text in ("None", "") else float(text)
    except ValueError:
        number = math.nan
    if math.isfinite(number):
        return number
    keys.refuse(key, f"{name}={text} is no number; correct it")
    return default


def _whole(keys: Keys, arguments: Arguments, name: str, default: int) -> int:
    number = _number(keys, arguments, name, default)
    if number == int(number):
        return int(number)
    keys.refuse("network_args", f"{name}={number:g} is no whole number; correct it")
    return default


def read_optimizer(keys: Keys, network_arguments: Arguments, fields: Fields) -> Fields:
    """Optimizer, rates and schedule of a run of ``fields['steps']`` steps that trains ``fields['train']``."""
    name = keys.text("optimizer_type", "AdamW")
    for flag, meant in (("use_8bit_adam", "AdamW8bit"), ("use_lion_optimizer", "Lion")):
        if keys.flag(flag):
            name = meant
    ours, decay = _optimizer(name)
    arguments = keys.arguments("optimizer_args")
    relative = ours == "adafactor" and _relative(arguments)
    options: Fields = _lora_plus(keys, network_arguments, relative)
    out: Fields = {
        "optimizer": ours,
        "adafactor_relative_step": relative,
        "weight_decay": _number(keys, arguments, "weight_decay", decay, "optimizer_args"),
        "max_grad_norm": keys.number("max_grad_norm", 1.0),
    }
    if name.lower() == "sgdnesterov":
        arguments = {"nesterov": "True", "momentum": "0.9", **arguments}
    arguments = _translated(keys, ours, arguments)
    options["arguments"] = ", ".join(f"{key}={_literal(value)}" for key, value in arguments.items())
    out |= _rates(keys, relative, fields, options)
    out |= _schedule(keys, name, relative, fields, options)
    return out | {"optimizer_options": OptimizerSettings(**options)}  # type: ignore[arg-type]


def _optimizer(name: str) -> tuple[str, float]:
    """This trainer's name of an optimizer, and the weight decay of its class. As in sd-scripts a name without dots is
    one of torch's; a full name such as pytorch_optimizer.Ranger21 is judged by the settings."""
    if name.lower() in OPTIMIZERS:
        return OPTIMIZERS[name.lower()]
    full = f"torch.optim.{name}" if hasattr(torch.optim, name) else name
    return full, own_weight_decay(full)


def _translated(keys: Keys, optimizer: str, arguments: Arguments) -> Arguments:
    """The optimizer's arguments under this trainer's names; those that change nothing are noted."""
    out: Arguments = {}
    for name, value in arguments.items():
        if name in _NO_RESULT:
            keys.idle[f"optimizer_args {name}"] = _NO_RESULT[name]
        elif name in _OFF:
            off, why = _OFF[name]
            if value.lower() != off.lower():
                keys.refuse("optimizer_args", f"{name}={value} has no counterpart ({why}); remove it")
        elif optimizer.startswith(("prodigy", "pytorch_optimizer.")):
            out[_RENAMED.get(name, name)] = value
        else:
            out[name] = value
    return out


def _literal(value: str) -> str:
    """sd-scripts reads ``0.9,0.99`` as a pair."""
    bare = "," in value and not value.startswith(("(", "["))
    return f"({value})" if bare else value


def _relative(arguments: Arguments) -> bool:
    """Whether Adafactor sets its own rates; arguments that say what is so anyway are taken out."""
    relative = arguments.pop("relative_step", "True").lower() != "false"
    warmup = arguments.pop("warmup_init", "False").lower() == "true"
    if warmup:
        # sd-scripts turns relative_step on then
        relative, arguments["warmup_init"] = True, "True"
    scaled = arguments.pop("scale_parameter", "True").lower() != "false"
    if scaled != relative:
        arguments["scale_parameter"] = str(scaled)
    return relative


def _rates(keys: Keys, relative: bool, fields: Fields, options: Fields) -> Fields:
    common = keys.number("learning_rate", 2e-6)
    unet, text = keys.number("unet_lr", common), keys.numbers("text_encoder_lr") or [common]
    frozen = fields["train"] == "unet"
    if relative:
        keys.idle_for(_ITS_OWN, "learning_rate", "unet_lr")
        # a rate of 0 still decides that the part is not trained
        if frozen or any(text):
            keys.idle_for(_ITS_OWN, "text_encoder_lr")
        _refuse_single_parts(keys, unet, [] if frozen else text)
    elif frozen:
        keys.idle_for("only the U-Net is trained", "text_encoder_lr")
    if keys.given("unet_lr") and (frozen or keys.given("text_encoder_lr")) and not relative:
        keys.idle_for("every part has a rate of its own", "learning_rate")
    if len(text) > 2:
        keys.refuse("text_encoder_lr", "SDXL has two text encoders; give one rate or two")
    if len(set(text)) > 1:
        options |= {"te1_lr": text[0], "te2_lr": text[1]}
    out: Fields = {"unet_lr": unet, "text_lr": text[0]}
    # sd-scripts does not train a part whose rate is 0
    return out | ({} if any(text) else {"train": "unet"})


def _refuse_single_parts(keys: Keys, unet: float, text: list[float]) -> None:
    """Adafactor with relative_step would train what has a rate of 0 here, where sd-scripts leaves that out."""
    if not unet:
        key = "unet_lr" if keys.given("unet_lr") else "learning_rate"
        keys.refuse(key, "the U-Net is always trained here, and Adafactor sets its own rates; give any other rate")
    if any(text) and not all(text):
        keys.refuse("text_encoder_lr", "the text encoders are trained both or not at all here; give 0 for both or none")


def _schedule(keys: Keys, optimizer: str, relative: bool, fields: Fields, options: Fields) -> Fields:
    arguments = keys.arguments("lr_scheduler_args")
    name = keys.text("lr_scheduler", "constant")
    if relative or optimizer.lower().endswith("schedulefree"):
        cycles = ("lr_scheduler_num_cycles", "lr_scheduler_power", "lr_scheduler_args")
        keys.idle_for(_ITS_OWN if relative else _SCHEDULE_FREE, "lr_scheduler", "lr_warmup_steps", *cycles)
        return {"schedule": "constant"}
    if name not in SCHEDULES:
        keys.refuse("lr_scheduler", f"choose one of {', '.join(SCHEDULES)}")
        name = "constant"
    if name == "cosine_with_restarts":
        options["cycles"] = keys.whole("lr_scheduler_num_cycles", 1)
    if name == "polynomial":
        options["power"] = keys.number("lr_scheduler_power", 1.0)
    keys.idle_for(f"the schedule {name} does not use it", "lr_scheduler_num_cycles", "lr_scheduler_power", unread=True)
    options["step_rules"] = arguments.pop("step_rules", "")
    if arguments:
        keys.refuse("lr_scheduler_args", f"'{next(iter(arguments))}' has no counterpart here; remove it")
    if name == "piecewise_constant":
        keys.idle_for("the schedule piecewise_constant does not use it", "lr_warmup_steps")
        return {"schedule": name}
    return {"schedule": name, "warmup_steps": _warmup(keys, int(fields["steps"]))}  # type: ignore[call-overload]


def _warmup(keys: Keys, steps: int) -> int:
    text = keys.text("lr_warmup_steps", "0").strip()
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        keys.refuse("lr_warmup_steps", "it must be steps, a share below 1 or a percentage")
        return 0
    return int(value * steps) if value < 1 or text.endswith("%") else int(value)


def _lora_plus(keys: Keys, arguments: Arguments, relative: bool) -> Fields:
    if relative:
        for name in [name for name in arguments if name.startswith("loraplus_")]:
            del arguments[name]
            keys.idle[f"network_args {name}"] = _ITS_OWN
    common = _number(keys, arguments, "loraplus_lr_ratio", 0.0)
    unet = _number(keys, arguments, "loraplus_unet_lr_ratio", common)
    text = _number(keys, arguments, "loraplus_text_encoder_lr_ratio", common)
    if unet != text and not keys.given("network_train_unet_only"):
        keys.refuse("network_args", "LoRA+ has one ratio for all parts; give loraplus_lr_ratio alone")
    return {"lora_plus_ratio": unet} if unet else {}
