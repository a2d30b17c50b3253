"""Runs ComfyUI as a library and prints, as JSON, how far each kind of adapter in a file is from the one in training.

Started by test_adapters.py in a process of its own: `adapter_program.py COMFYUI ROOT BASE`. For each kind the adapters
are put on the tiny SDXL, given random weights and written to a file; the host's own loader puts the file on the
checkpoint; and the U-Net and the text encoders with the host's merged weights are compared with those in training.
"""

from __future__ import annotations

import importlib
import json
import logging
from typing import Any

from comfy_library import ROOT, start

start("--fp32-unet", "--fp32-text-enc")

import comfy.sd  # noqa: E402
import torch  # noqa: E402
from comfy.ldm.models.autoencoder import DiagonalGaussianRegularizer  # noqa: E402

host: Any = importlib.import_module("pack.nodes.host")
apply: Any = importlib.import_module("pack.nodes.lora.apply")
adapter: Any = importlib.import_module("pack.trainer.adapters.adapters")
lora_file: Any = importlib.import_module("pack.trainer.lora.file")
options: Any = importlib.import_module("pack.trainer.settings.options")
sdxl: Any = importlib.import_module("pack.trainer.sdxl.parts")
settings_of: Any = importlib.import_module("pack.trainer.settings.training").TrainSettings

CPU = torch.device("cpu")
KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "lora with convolutions": {"conv_rank": 3, "conv_alpha": 2.0},
    "rslora": {"rank_stabilized": True},
    "dora": {"dora": True},
    "dora with convolutions": {"dora": True, "conv_rank": 2},
    "pissa": {"initial": "pissa"},
    "pissa with convolutions": {"initial": "pissa", "conv_rank": 2},
    "loha": {"kind": "loha"},
    "loha with convolutions": {"kind": "loha", "conv_rank": 3},
    "lokr": {"kind": "lokr"},
    "lokr with convolutions": {"kind": "lokr", "conv_rank": 2, "lokr_factor": 4},
    "some blocks": {"skip_blocks": ("MID", "IN04"), "exclude": "ff_net", "include": "unet|te2"},
}


class Complaints(logging.Handler):
    """What the host says about keys that it does not load."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            self.lines.append(record.getMessage())


def randomize(adapters: Any) -> None:
    """Every trained weight moves a little, as after training."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in adapters.modules:
            for key, weight in module.weights().items():
                noise = torch.randn(weight.shape, generator=generator)
                # magnitudes are factors; the others are added up
                weight.copy_(weight * (1 + 0.1 * noise) if key == "dora_scale" else weight + 0.1 * noise)


@torch.no_grad()
def outputs(parts: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the U-Net and of the text encoders, for the same inputs every time."""
    generator = torch.Generator().manual_seed(2)
    context, pooled = sdxl.encode_text(
        parts, torch.tensor([sdxl.pad_tokens([49406, 320, 1, 2, 49407])[:2]]).movedim(0, 1)
    )
    noisy = torch.randn(1, 4, 16, 16, generator=generator)
    extra = {"text_embeds": pooled, "time_ids": torch.tensor([sdxl.size_ids((128, 128), (0, 0), (128, 128))])}
    steps = torch.tensor([400])
    return parts.unet(noisy, steps, encoder_hidden_states=context, added_cond_kwargs=extra).sample, context


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


def measure(kind: dict[str, Any], model: Any, clip: Any) -> dict[str, Any]:
    settings = settings_of(
        rank=4, alpha=3.0, precision="fp32", save_precision="fp32", adapter=options.AdapterSettings(**kind)
    )
    parts = host.build_parts(model, clip, settings, CPU)
    base = outputs(parts)
    adapters = adapter.add_adapters(parts, settings)
    fresh = outputs(parts)
    randomize(adapters)
    trained = outputs(parts)
    with adapters.disabled():
        disabled = outputs(parts)
    tensors = lora_file.lora_tensors(adapters, "fp32")

    complaints = Complaints()
    logging.getLogger().addHandler(complaints)
    patched = comfy.sd.load_lora_for_models(model, clip, tensors, 1.0, 1.0)
    logging.getLogger().removeHandler(complaints)
    loaded = outputs(host.build_parts(*patched, settings, CPU))
    return {
        "modules": len(adapters.modules),
        "patches": len(patched[0].patches) + len(patched[1].patcher.patches),
        "complaints": complaints.lines,
        "left out": apply.match_lora(model, clip, tensors).left_out,
        "U-Net": error(loaded[0], trained[0]),
        "text": error(loaded[1], trained[1]),
        "what it does": error(trained[0], base[0]),
        "fresh": error(fresh[0], base[0]),
        "disabled": error(disabled[0], base[0]),
    }


# where a step from the default would mean something else, or nothing
OTHERS: dict[str, Any] = {
    "lokr_factor": 4, "te1_lr": 1e-3, "te2_lr": 1e-3,
    "optimizer_class": "torch.optim.SGD", "arguments": "eps=1e-6", "step_rules": "1:10,0.1", "keep_separator": "@@",
    "separator": ";", "trigger": "mjesec", "background": "#102030", "more_resolutions": "512, 768",
    "skip_blocks": "mid, IN04", "include": "attn1", "exclude": "ff",
    # what the settings say already is no other value
    "buckets": "off", "bucket_upscale": "on", "bucket_step": 32, "bucket_min": 512, "bucket_max": 4096,
    "latents": "sample_once", "told_crop": "kohya", "relative_step": "on", "output_name": "another",
    "precision": "fp16",
}  # fmt: skip
# what a widget needs beside it to mean something
BESIDE: dict[str, dict[str, Any]] = {
    "relative_step": {"optimizer_class": "adafactor"},
    "patience": {"validate_every": 5},
}  # fmt: skip
# of two nodes that make settings, and of the options nodes, which change them
MAKERS = ("TrainingSettings", "ThesisSettings")
MODULES = ("settings", "options", "adapter_options", "data_options", "checkpoint_options", "memory_options")


def another(widget: Any) -> Any:
    """A value that is not the widget's default."""
    if widget.id in OTHERS:
        return OTHERS[widget.id]
    if (options := getattr(widget, "options", None)) is not None:
        return next(option for option in options if option != widget.default)
    if isinstance(widget.default, bool):
        return not widget.default
    step = widget.step or 1
    return widget.default + step if widget.default + step <= widget.max else widget.default - step


def ignored_widgets() -> list[str]:
    """Widgets that change nothing in the settings of the nodes that make them or change them."""
    found = []
    for name in MODULES:
        for kind in importlib.import_module(f"pack.nodes.training.{name}").NODES:
            found += ignored_by(kind)
    return found


def ignored_by(kind: Any) -> list[str]:
    makes = kind.__name__ in MAKERS
    widgets = [widget for widget in kind.define_schema().inputs if widget.id != "settings"]
    # with images held out, so that measurements mean something
    given = {} if makes else {"settings": settings_of(validation_images=2)}
    usual = {widget.id: widget.default for widget in widgets}
    before = kind.execute(**given, **usual).result[0]
    found = []
    if not makes and before != given["settings"]:
        found.append(f"{kind.__name__}: its defaults are not those of the settings")
    if kind.__name__ == "TrainingSettings" and before != settings_of():
        found.append("TrainingSettings: its defaults are not those of the settings")
    for widget in widgets:
        values = {**usual, **BESIDE.get(widget.id, {})}
        plain = kind.execute(**given, **values).result[0]
        if kind.execute(**given, **{**values, widget.id: another(widget)}).result[0] == plain:
            found.append(f"{kind.__name__}.{widget.id}")
    return found


class Narrow(torch.nn.Module):
    """An autoencoder that averages, with the posterior of the host's own kind, and memory for 512 × 512 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.regularization = DiagonalGaussianRegularizer()

    def encode(self, x: torch.Tensor, **_: Any) -> torch.Tensor:
        if x.shape[-2] * x.shape[-1] > 512 * 512:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        moments = torch.nn.functional.avg_pool2d(x.float(), 8).mean(1, keepdim=True).repeat(1, 8, 1, 1)
        return self.regularization(moments)[0]


def tiles(vae: Any) -> dict[str, Any]:
    """What the host's encoder gives for an image that only fits in tiles."""
    own, vae.first_stage_model = vae.first_stage_model, Narrow()
    try:
        mean, std = host.encoder(vae)(torch.full((1, 640, 576, 3), 0.75))
    finally:
        vae.first_stage_model = own
    seen = [list(mean.shape), list(std.shape), vae.latent_channels]
    # the host's taesd takes pixels from 0 to 1, its other autoencoders from -1 to 1
    given = vae.process_input(torch.tensor(0.75)).item()
    return {"shapes": seen, "given": given, "mean": mean.aminmax()[:], "std": std.aminmax()[:]}


loaded = comfy.sd.load_checkpoint_guess_config(str(ROOT / "demo" / "tiny_sdxl.safetensors"))
with torch.inference_mode(False):
    kinds = {name: measure(kind, loaded[0], loaded[1]) for name, kind in KINDS.items()}
    found = {"kinds": kinds, "ignored widgets": ignored_widgets(), "tiles": tiles(loaded[2])}
    print(json.dumps(found, default=float))
