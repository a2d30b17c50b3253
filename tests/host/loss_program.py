"""Runs ComfyUI as a library and prints, as JSON, which images Loss by Weight measures, and with which words.

Started by test_loss_by_weight.py in a process of its own: `loss_program.py COMFYUI ROOT BASE`.
"""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from comfy_library import BASE
from sweep_library import CLIP, MODEL, VAE, write_lora

import torch  # isort: skip - ComfyUI has begun with the import above
from PIL import Image
from safetensors.torch import load_file

loss_by_weight: Any = importlib.import_module("pack.nodes.figure.loss_by_weight")
combine: Any = importlib.import_module("pack.trainer.dataset.combine")
options: Any = importlib.import_module("pack.trainer.settings.options")
scan: Any = importlib.import_module("pack.trainer.dataset.scan")
settings_of: Any = importlib.import_module("pack.trainer.settings.training").TrainSettings


def folder(name: str, count: int) -> Any:
    """A dataset of so many different images, each with a choice in its caption."""
    place = BASE / name
    place.mkdir()
    for number in range(count):
        Image.new("RGB", (64, 64), (40 * number, 10 * len(name), 99)).save(place / f"{number}.png")
        (place / f"{number}.txt").write_text(f"{name} {number}, {{red|blue}}")
    return scan.scan_folder(place)


@torch.inference_mode()
def measure() -> dict[str, Any]:
    whole = combine.combine([folder("first", 6), folder("second folder", 6)], folder("prior", 3))
    # those of regularisation come first, as where several nodes combine
    dataset = replace(whole, samples=tuple(sorted(whole.samples, key=lambda sample: not sample.regularisation)))
    settings = settings_of(validation_images=4, captions=options.CaptionSettings(trigger="mjesec", wildcards=True))
    encoded: list[str] = []
    tokenize = type(CLIP).tokenize

    def noted(clip: Any, text: str, *more: Any, **named: Any) -> Any:
        encoded.append(text)
        return tokenize(clip, text, *more, **named)

    type(CLIP).tokenize = noted
    loss_by_weight.LossByWeight.hidden = SimpleNamespace(unique_id=None)
    stray = {f"lora_unet_nowhere.lora_{side}.weight": torch.ones(4, 4) for side in ("down", "up")}
    lora = load_file(write_lora("plain.safetensors", 0)) | stray
    node = loss_by_weight.LossByWeight.execute(MODEL, CLIP, VAE, dataset, settings, "", "1", 3, lora=lora)
    trained, held_out = dataset.split(4, settings.seed)
    return {
        "encoded": encoded,
        "report": node.result[1],
        "told": list(node.result[0].about["prompts"]),
        "held out": [sample.caption.split(",")[0] for sample in held_out.samples],
        "first folders": sorted({Path(sample.path).parent.name for sample in trained.samples[:3]}),
    }


print(json.dumps(measure()))
