"""Kohya's keys of optimizer, rates and schedule to the trainer's settings."""

from __future__ import annotations

import ast
import math

import torch

from ..settings.options import OptimizerSettings
from ..settings.training import SCHEDULES
from ..training.optim import own_weight_decay
from .network import LYCORIS_MODULE, network_module
from .values import Arguments, Fields, Keys, argument_number, note_idle

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
    "dadaptadam": ("pytorch_optimizer.DAdaptAdam", 0.0),
    "dadaptadagrad": ("pytorch_optimizer.DAdaptAdaGrad", 0.0),
    "dadaptlion": ("pytorch_optimizer.DAdaptLion", 0.0),
    "dadaptsgd": ("pytorch_optimizer.DAdaptSGD", 0.0),
    "sgdnesterov": ("torch.optim.SGD", 0.0),
    "sgdnesterov8bit": ("bitsandbytes.optim.SGD8bit", 0.0),
}
_PREPRINT = "its preprint's estimate of the step is not that of DAdaptAdam; write DAdaptAdam, or Prodigy"
# those that no kept library has, and the cure; a class of like name was compared step by step and goes another way
_ONLY = {
    "dadaptation": _PREPRINT,
    "dadaptadampreprint": _PREPRINT,
    "dadaptadan": "pytorch_optimizer's class of that name divides by other moments of the gradients; write DAdaptAdam",
    "dadaptadanip": "no library here has it; write DAdaptAdam, or Prodigy",
}
# the libraries that those names stand for in sd-scripts, and their classes, which may be named in full as well
_CLASSES = {
    "prodigyopt": ("prodigy",),
    "lion_pytorch": ("lion",),
    "schedulefree": ("adamwschedulefree", "radamschedulefree", "sgdschedulefree"),
    "came_pytorch": ("came",),
    "transformers": ("adafactor",),
    "dadaptation": ("dadaptadam", "dadaptadagrad", "dadaptlion", "dadaptsgd", *_ONLY),
}
_NESTEROV = {"nesterov": "True", "momentum": "0.9"}
# arguments that sd-scripts or its class gives by itself, and this trainer's class does not
_DEFAULTS = {
    "dadaptadagrad": {"eps": "1e-6"},
    "dadaptlion": {"betas": "(0.9, 0.99)", "weight_decouple": "True"},
    "dadaptsgd": {"momentum": "0.0"},
    "sgdnesterov": _NESTEROV,
    "sgdnesterov8bit": _NESTEROV,
}
# the only modules whose prepare_optimizer_params_with_multiple_te_lrs sd-scripts finds
_TWO_TEXT_RATES = ("networks.loha", "networks.lokr")
# arguments of the classes that sd-scripts takes, under the names that this trainer's classes have for them
_RENAMED = {
    "decouple": "weight_decouple",
    "use_bias_correction": "bias_correction",
}
# arguments without counterpart: what they are where they are off, and why another value is refused
_OFF: dict[str, tuple[object, str]] = {
    "slice_p": (1, "Prodigy's estimate is made from whole tensors here"),
    "fsdp_in_use": (False, "weights are never spread over several devices here"),
    "decoupled_weight_decay": (False, "Lion's weight decay is scaled by the learning rate here"),
}
_NO_RESULT = {"log_every": "it only prints", "use_triton": "it changes the speed, not the result"}
# LoRA+'s arguments by the part whose up matrices they are for
_RATIOS = {
    "": "loraplus_lr_ratio",
    "unet": "loraplus_unet_lr_ratio",
    "text_encoder": "loraplus_text_encoder_lr_ratio",
}
_SCHEDULE_FREE = "a schedule-free optimizer runs without a schedule"
_ITS_OWN = "Adafactor with relative_step sets its own rates; no weight ever sees this"


def read_optimizer(keys: Keys, network_arguments: Arguments, fields: Fields) -> Fields:
    """Optimizer, rates and schedule of a run of ``fields['steps']`` steps that trains ``fields['train']``."""
    name = _optimizer_name(keys)
    ours, decay = _optimizer(keys, name)
    arguments = keys.arguments("optimizer_args", quoted=True)
    relative = ours == "adafactor" and _relative(arguments)
    out: Fields = {
        "optimizer": ours,
        "adafactor_relative_step": relative,
        "weight_decay": argument_number(keys, arguments, "weight_decay", decay, "optimizer_args"),
        "max_grad_norm": keys.number("max_grad_norm", 1.0),
    }
    if ours == "prodigy":
        _check_prodigy(keys, arguments, decays=out["weight_decay"] != 0)
    arguments = {**_DEFAULTS.get(name.lower(), {}), **_translated(keys, ours, arguments)}
    options: Fields = {"arguments": ", ".join(f"{key}={_literal(value)}" for key, value in arguments.items())}
    out |= _rates(keys, relative, fields, options)
    options |= _lora_plus(keys, network_arguments, relative, fields | out)
    out |= _schedule(keys, name, relative, fields, options)
    return out | {"optimizer_options": OptimizerSettings(**options)}  # type: ignore[arg-type]


def _optimizer_name(keys: Keys) -> str:
    """sd-scripts' name of the optimizer; a class of a library that it takes by itself is known by its own name."""
    name = keys.text("optimizer_type", "AdamW")
    given = ["optimizer_type"] if keys.given("optimizer_type") else []
    for flag, meant in (("use_8bit_adam", "AdamW8bit"), ("use_lion_optimizer", "Lion")):
        if keys.flag(flag):
            name, given = meant, [*given, flag]
    if len(given) > 1:
        keys.refuse(given[-1], f"{given[0]} names an optimizer as well; remove one of them")
    library, _, short = name.rpartition(".")
    return short if short.lower() in _CLASSES.get(library.partition(".")[0], ()) else name


def _optimizer(keys: Keys, name: str) -> tuple[str, float]:
    """This trainer's name of an optimizer, and the weight decay of its class. As in sd-scripts a name without dots is
    one of torch's; a full name such as pytorch_optimizer.Ranger21 is judged by the settings."""
    if name.lower() in _ONLY:
        keys.refuse("optimizer_type", _ONLY[name.lower()])
        return OPTIMIZERS["adamw"]
    if name.lower() in OPTIMIZERS:
        return OPTIMIZERS[name.lower()]
    full = f"torch.optim.{name}" if hasattr(torch.optim, name) else name
    return full, own_weight_decay(full)


def _check_prodigy(keys: Keys, arguments: Arguments, *, decays: bool) -> None:
    """Arguments with which pytorch_optimizer's Prodigy goes another way than prodigyopt's."""
    if decays and not _value(arguments.get("decouple", "True")):
        why = "the decay would have to be added to the gradient, which Prodigy never does here"
        keys.refuse("optimizer_args", f"decouple=False: {why}; remove decouple, or weight_decay")
    betas = _value(arguments.get("betas", "None"))
    if isinstance(betas, tuple | list) and betas and betas[0] == 0:
        why = "without momentum the step is another one here"
        keys.refuse("optimizer_args", f"betas={arguments['betas']}: {why}; give a first value above 0, such as 0.9")


def _translated(keys: Keys, optimizer: str, arguments: Arguments) -> Arguments:
    """The optimizer's arguments under this trainer's names; those that change nothing are noted."""
    out: Arguments = {}
    for name, value in arguments.items():
        if name in _NO_RESULT:
            keys.idle[f"optimizer_args {name}"] = _NO_RESULT[name]
        elif name in _OFF:
            off, why = _OFF[name]
            if _value(value) != off:
                keys.refuse("optimizer_args", f"{name}={value} has no counterpart ({why}); remove it")
        elif (optimizer, name) == ("came", "eps"):
            out |= _two_eps(value)
        elif optimizer.startswith(("prodigy", "pytorch_optimizer.")):
            out[_RENAMED.get(name, name)] = value
        else:
            out[name] = value
    return out


def _two_eps(value: str) -> Arguments:
    """CAME's pair under the two names that pytorch_optimizer has for it."""
    pair = _value(value)
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        return {"eps": value}
    return {"eps1": str(pair[0]), "eps2": str(pair[1])}


def _literal(value: str) -> str:
    """sd-scripts reads ``0.9,0.99`` as a pair."""
    bare = "," in value and not value.startswith(("(", "[", "'", '"'))
    return f"({value})" if bare else value


def _value(text: str) -> object:
    """What sd-scripts makes of an optimizer's argument; text that is no literal, which it refuses, stays text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return {"true": True, "false": False}.get(text.lower(), text)


def _relative(arguments: Arguments) -> bool:
    """Whether Adafactor sets its own rates; arguments that say what is so anyway are taken out."""
    relative = bool(_value(arguments.pop("relative_step", "True")))
    warmup = bool(_value(arguments.pop("warmup_init", "False")))
    if warmup:
        # sd-scripts turns relative_step on then
        relative, arguments["warmup_init"] = True, "True"
    scaled = bool(_value(arguments.pop("scale_parameter", "True")))
    if scaled != relative:
        arguments["scale_parameter"] = str(scaled)
    return relative


def _rates(keys: Keys, relative: bool, fields: Fields, options: Fields) -> Fields:
    common = keys.number("learning_rate", 2e-6)
    unet, rates = keys.number("unet_lr", common), keys.numbers("text_encoder_lr")
    module = network_module(keys)
    most = 2 if module in _TWO_TEXT_RATES else 1
    text = rates[:most] or [common]
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
    if len(rates) > most and "text_encoder_lr" in keys.honoured:
        why = "SDXL has two text encoders" if most == 2 else f"{module} gives both text encoders the first one"
        keys.idle[f"text_encoder_lr after its {'second' if most == 2 else 'first'} value"] = why
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
    if name == "piecewise_constant":
        options["step_rules"] = arguments.pop("step_rules", "")
    elif "step_rules" in arguments:
        keys.refuse("lr_scheduler_args", f"the schedule {name} has no step_rules; remove them")
        return {"schedule": name}
    if arguments:
        keys.refuse("lr_scheduler_args", f"'{next(iter(arguments))}' has no counterpart here; remove it")
    if name == "piecewise_constant":
        keys.idle_for("the schedule piecewise_constant does not use it", "lr_warmup_steps")
        return {"schedule": name}
    warmup = _warmup(keys, int(fields["steps"]))  # type: ignore[call-overload]
    if name == "constant" and warmup:
        # sd-scripts stops at this pair; whoever gives a warm-up wants one, and under this name reports tell of it
        name = "constant_with_warmup"
    return {"schedule": name, "warmup_steps": warmup}


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


def _lora_plus(keys: Keys, arguments: Arguments, relative: bool, fields: Fields) -> Fields:
    """``fields``: the kind of adapter, and what is trained at which rates."""
    kind, module = fields["adapter"].kind, network_module(keys)  # type: ignore[attr-defined]
    given = [name for name in arguments if name in _RATIOS.values()]
    if relative or (kind != "lora" and module == LYCORIS_MODULE):
        reason = _ITS_OWN if relative else f"LyCORIS' {kind} has no up matrices"
        note_idle(keys, arguments, dict.fromkeys(given, reason))
        return {}
    common = argument_number(keys, arguments, "loraplus_lr_ratio", 0.0)
    trained = {"unet": bool(fields["unet_lr"]), "text_encoder": fields["train"] != "unet"}
    for part, name in _RATIOS.items():
        if not trained.get(part, True):
            note_idle(keys, arguments, {name: "this part is not trained"})
    # as in sd-scripts a part's own ratio of 0 is none
    named = [_RATIOS[part] for part, on in trained.items() if on]
    ratios = {argument_number(keys, arguments, name, 0.0) or common for name in named} or {0.0}
    ratio = ratios.pop()
    if ratios:
        keys.refuse("network_args", "LoRA+ has one ratio for all parts; give loraplus_lr_ratio alone")
    elif ratio and kind != "lora":
        keys.refuse("network_args", f"{module} has no LoRA+ here; remove {given[0]}, or take networks.lora")
    elif not ratio and _RATIOS[""] in given:
        keys.refuse("network_args", "loraplus_lr_ratio=0 never trains the up matrices; remove it")
    else:
        return {"lora_plus_ratio": ratio} if ratio else {}
    return {}
