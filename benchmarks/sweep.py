"""How long does a 4 × 4 grid of CFG scale and LoRA weight take: exact, fast, and as a plain graph of core nodes?

    python dev.py bench sweep --checkpoint PATH [--size PX] [--steps 6] [--device cpu|cuda] [--json FILE]
    python dev.py bench sweep --quick

All three make the same sixteen images with seeds of their own, in one ComfyUI, after a warm-up of one image. The plain
graph has LoraLoader, CLIPTextEncode, KSampler and VAEDecode for each cell, and ComfyUI's default cache. Plain and exact
take turns, a LoRA weight at a time, and fast has its turn halfway: a machine that others slow down for some minutes
slows all three. --quick runs on the tiny SDXL of the demo: it shows that the program works and says nothing about a
real model.

Beside the times stand the aims, and what share of the fast sweep went into anything but sampling and decoding: finding
cells, hashing, encoding texts, writing files. Weights are hashed once in a ComfyUI's life, here by the exact sweep.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from _hosts import Graph, main, node, setup
from safetensors import safe_open
from safetensors.torch import save_file

import dev

# shares of the plain graph's time that are aimed at, and of the fast sweep's outside sampling and decoding
AIMS = {"cpu": {"exact": 0.9, "fast": 0.75}, "cuda": {"exact": 0.9, "fast": 0.5}}
MOST_OUTSIDE = 0.03
CFGS, WEIGHTS = (2.0, 4.0, 6.0, 8.0), (0.0, 0.5, 0.75, 1.0)
RANK = 16
LORA = "bench.safetensors"
PREFIXES = {
    "model.diffusion_model.": "lora_unet_",
    "conditioner.embedders.0.transformer.": "lora_te1_",
}
PROJECTIONS = ("to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight", "q_proj.weight", "v_proj.weight")


def random_lora(checkpoint: Path, path: Path) -> None:
    """Low-rank pairs for the attention of the U-Net and of CLIP-L, small enough to leave the images whole."""
    generator = torch.Generator().manual_seed(0)
    pairs = {}
    with safe_open(str(checkpoint), "pt") as file:
        for key in file.keys():  # noqa: SIM118 - a file, not a mapping
            prefix = next((prefix for prefix in PREFIXES if key.startswith(prefix)), None)
            if prefix is None or not key.endswith(PROJECTIONS):
                continue
            rows, columns = file.get_slice(key).get_shape()
            name = PREFIXES[prefix] + key.removeprefix(prefix).removesuffix(".weight").replace(".", "_")
            pairs[f"{name}.lora_down.weight"] = torch.randn(RANK, columns, generator=generator) / columns**0.5
            pairs[f"{name}.lora_up.weight"] = torch.randn(rows, RANK, generator=generator) * 1e-3
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(pairs, path)


def plain(options: argparse.Namespace, seed: int, cells: list[tuple[float, float]]) -> Graph:
    graph = {
        "ckpt": node("CheckpointLoaderSimple", ckpt_name=options.checkpoint.name),
        "empty": node("EmptyLatentImage", width=options.size, height=options.size, batch_size=1),
    }
    for number, (cfg, weight) in enumerate(cells):
        own = {kind: f"{kind}{number}" for kind in ("lora", "yes", "no", "sample", "decode", "save")}
        graph |= {
            own["lora"]: node(
                "LoraLoader", model=["ckpt", 0], clip=["ckpt", 1], lora_name=LORA, strength_model=weight,
                strength_clip=weight,
            ),
            own["yes"]: node("CLIPTextEncode", clip=[own["lora"], 1], text="moon"),
            own["no"]: node("CLIPTextEncode", clip=[own["lora"], 1], text=""),
            own["sample"]: node(
                "KSampler", model=[own["lora"], 0], positive=[own["yes"], 0], negative=[own["no"], 0],
                latent_image=["empty", 0], seed=seed, steps=options.steps, cfg=cfg, sampler_name="euler",
                scheduler="normal", denoise=1.0,
            ),
            own["decode"]: node("VAEDecode", samples=[own["sample"], 0], vae=["ckpt", 2]),
            own["save"]: node("SaveImage", images=[own["decode"], 0], filename_prefix="plain"),
        }  # fmt: skip
    return graph


def swept(options: argparse.Namespace, seed: int, mode: str, weights: Sequence[float]) -> Graph:
    return {
        "ckpt": node("CheckpointLoaderSimple", ckpt_name=options.checkpoint.name),
        "cfg": node("MjesecSweepAxis", parameter="CFG scale", values=", ".join(map(str, CFGS))),
        "weight": node(
            "MjesecSweepAxis", parameter="LoRA weight", values=", ".join(map(str, weights)), axes=["cfg", 0]
        ),
        "sweep": node(
            "MjesecSweep", model=["ckpt", 0], clip=["ckpt", 1], vae=["ckpt", 2], axes=["weight", 0], prompt="moon",
            negative="", width=options.size, height=options.size, seed=seed, steps=options.steps, cfg=1.0,
            sampler="euler", scheduler="normal", lora_weight=1.0, lora_name=LORA, mode=mode,
        ),
        "report": node("PreviewAny", source=["sweep", 1]),
    }  # fmt: skip


def seconds(host: dev.HostProcess, graph: Graph) -> tuple[float, dict[str, Any]]:
    """How long the host worked on a graph, by its own clock, and the history entry."""
    entry = host.wait(host.queue(graph))
    if failure := dev.failure_of(entry):
        raise dev.Failure(f"{failure}; the host's log ends:\n{dev.tail(host.log, 30)}")
    times = {name: told["timestamp"] for name, told in entry["status"]["messages"]}
    return (times["execution_success"] - times["execution_start"]) / 1000, entry


def measure(options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="mjesec-bench-") as folder:
        base = Path(folder)
        random_lora(options.checkpoint, base / "models" / "loras" / LORA)
        place = base / "models" / "checkpoints" / options.checkpoint.name
        place.parent.mkdir(parents=True)
        place.symlink_to(options.checkpoint)
        arguments = ["--cpu", "--bf16-unet", "--bf16-text-enc"] if options.device == "cpu" else []
        with dev.HostProcess(setup(), base, base / "comfyui.log", arguments) as host:
            dev.check_loaded(host)
            seconds(host, plain(options, 1, [(2.0, 0.5)]))
            return in_turns(host, options)


def in_turns(host: dev.HostProcess, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of the three ways, what the fast sweep said, and its shares outside and of checking itself."""
    found: dict[str, Any] = {"plain": 0.0, "exact": 0.0}
    for number, weight in enumerate(WEIGHTS):
        row = [
            ("plain", plain(options, 2, [(cfg, weight) for cfg in CFGS])),
            ("exact", swept(options, 3, "exact", [weight])),
        ]
        # a drift from the first to the second turn falls on each way as often
        for way, graph in row if number % 2 == 0 else reversed(row):
            spent, _ = seconds(host, graph)
            print(f"{way}, LoRA weight {weight:g}: {spent:.1f} s", flush=True)
            found[way] += spent
        if number == len(WEIGHTS) // 2 - 1:
            found |= fast_sweep(host, options)
    return found


def fast_sweep(host: dev.HostProcess, options: argparse.Namespace) -> dict[str, Any]:
    spent, entry = seconds(host, swept(options, 4, "fast", WEIGHTS))
    print(f"fast, all LoRA weights: {spent:.1f} s", flush=True)
    sweeps = host.base / "output" / "mjesec" / "sweeps"
    newest = max(sweeps.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    own = json.loads(newest.read_text(encoding="utf-8"))["seconds"]
    return {
        "fast": spent,
        "fast report": entry["outputs"]["sweep"]["text"][0],
        "outside": 1 - own["sampling_and_decoding"] / spent,
        "check": own["of_which_checking_fast"] / spent,
    }


def against_aims(found: dict[str, Any], device: str) -> list[str]:
    """One line a number: what was found, what is aimed at, and whether that is met."""
    rows = [(way, found[way] / found["plain"], most) for way, most in AIMS[device].items()]
    rows.append(("fast, outside sampling and decoding", found["outside"], MOST_OUTSIDE))
    return [
        f"{name}: {share:.3f}, aim at most {most:g}: {'met' if share <= most else 'NOT MET'}"
        for name, share, most in rows
    ]


def sweep() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, help="an SDXL checkpoint; random weights will do")
    parser.add_argument("--quick", action="store_true", help="the tiny SDXL of the demo, 64 px, 2 steps")
    parser.add_argument("--size", type=int, help="pixels a side (256; cuda: 1024)")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", type=Path, help="write the numbers there as well")
    options = parser.parse_args()
    if options.quick:
        options.checkpoint, options.size, options.steps = dev.TINY_SDXL, 64, 2
    options.size = options.size or (1024 if options.device == "cuda" else 256)
    if options.checkpoint is None or not options.checkpoint.is_file():
        parser.error("give an SDXL checkpoint with --checkpoint, or --quick")
    options.checkpoint = options.checkpoint.absolute()
    found = measure(options)
    print(f"4 × 4 cells of {options.size} px, {options.steps} steps, {options.device}:")
    for way in ("plain", "exact", "fast"):
        print(f"  {way:6} {found[way]:8.1f} s  {found[way] / found['plain']:.2f} of the plain graph")
    print("\n".join(f"  {line}" for line in against_aims(found, options.device)))
    print(f"  of the fast sweep {found['check']:.3f} went into the cell that is computed exactly as well")
    print("\n".join(f"  {line}" for line in found["fast report"].splitlines()))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main(sweep))
