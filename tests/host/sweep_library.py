"""Sweeps for programs that run ComfyUI as a library: the demo's model, a shot, cells in folders of their own."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from typing import Any

from comfy_library import BASE, ROOT, start

TINY = ROOT / "demo" / "tiny_sdxl.safetensors"
FOLDERS = {name: BASE / "models" / name for name in ("loras", "checkpoints", "embeddings")}
for folder in FOLDERS.values():
    folder.mkdir(parents=True)
OTHER = FOLDERS["checkpoints"] / "other.safetensors"
shutil.copy(TINY, OTHER)

start("--fp32-unet")

import comfy.lora  # noqa: E402
import comfy.sd  # noqa: E402
import torch  # noqa: E402
from pack.figures import Axis  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

batching: Any = importlib.import_module("pack.nodes.sweep.batching")
cell_store: Any = importlib.import_module("pack.nodes.sweep.cell_store")
engine: Any = importlib.import_module("pack.nodes.sweep.engine")
progress: Any = importlib.import_module("pack.nodes.progress")
sampling: Any = importlib.import_module("pack.nodes.sweep.sampling")
shots_of: Any = importlib.import_module("pack.nodes.sweep.shot")

MODEL, CLIP, VAE = comfy.sd.load_checkpoint_guess_config(str(TINY))[:3]
SHOT = shots_of.Shot(
    prompt="moon", negative="", seed=1, steps=1, cfg=3.0, sampler="euler", scheduler="normal", denoise=1.0,
    width=64, height=64, lora_weight_model=1.0, lora_weight_clip=1.0,
)  # fmt: skip


def write_lora(name: str, seed: int) -> Path:
    """Random pairs for four projections of the U-Net."""
    generator = torch.Generator().manual_seed(seed)
    keys = comfy.lora.model_lora_keys_unet(MODEL.model, {})
    weights = MODEL.model.state_dict()
    names = [name for name, key in keys.items() if name.startswith("lora_unet_") and key.endswith("to_q.weight")][:4]
    pairs = {}
    for each in names:
        rows, columns = weights[keys[each]].shape
        pairs[f"{each}.lora_down.weight"] = torch.randn(2, columns, generator=generator)
        pairs[f"{each}.lora_up.weight"] = torch.randn(rows, 2, generator=generator) * 0.05
    path = FOLDERS["loras"] / name
    save_file(pairs, path)
    return path


def sweep(store: str, *axes: Axis, mode: str = "exact", shot: Any = SHOT, lora: Any = None, **wires: Any) -> Any:
    subject = sampling.Subject(MODEL, CLIP, VAE, lora, **wires)
    folder = cell_store.CellStore(BASE / store)
    watcher = progress.NodeWatcher(None)
    return engine.Sweeping(axes, shot, sampling.Studio(subject), folder, mode, watcher, lambda shot: None)


def finished(sweeping: Any) -> Any:
    sweeping.look()
    return sweeping.run(batching.run_fast)


def errors(grid: Any) -> list[str]:
    return [result.error for result in grid.results]


def lines_told(*stages: tuple[Any, ...]) -> list[str]:
    """What a watcher tells of one stage after the other, each given as `NodeWatcher.stage` takes it, 10 s apart."""
    told: list[str] = []

    class Watcher(progress.NodeWatcher):
        def _tell(self, line: str, *, force: bool) -> None:
            told.append(line)

    now = [100.0]
    clock, progress.time.monotonic = progress.time.monotonic, lambda: now[0]
    try:
        watcher = Watcher(None)
        for stage in stages:
            watcher.stage(*stage)
            now[0] += 10.0
    finally:
        progress.time.monotonic = clock
    return told
