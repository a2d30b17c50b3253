"""The thesis workflow on a full-size SDXL, on a CPU, through /prompt; then the LoRA in the host, and in both models.

    python dev.py bench full_size [--checkpoint PATH] [--size 256] [--steps 4] [--no-compare]
    python dev.py bench full_size --figures [--checkpoint PATH] [--size 256] [--steps 4] [--quick]

1. `workflows/api/thesis_train.json` trains U-Net and both text encoders; only checkpoint, size and steps are replaced.
2. The file must hold kohya's 986 modules under kohya's names, three tensors each, all finite.
3. ComfyUI's own LoraLoader and KSampler run on it; the log may not speak of a key that was not loaded.
4. `compare.py` puts host and trainer side by side on the same weights, without and with a LoRA at strength 1.

The host's peak of resident memory must stay below 24 GB. Without a checkpoint, one of random weights is made.

--figures runs the sweeps of fig09 and fig11 instead, with a random LoRA; only checkpoint, size and steps are replaced,
and each figure's files must be there. --quick does so on the demo's tiny SDXL, to see that the program works.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from _hosts import (
    BF16,
    Graph,
    Sampler,
    check_room,
    complaints,
    full_size_checkpoint,
    host_with,
    machine,
    main,
    node,
    process_memory,
    run,
    setup,
)

import dev

WORKFLOW = dev.ROOT / "workflows" / "api" / "thesis_train.json"
FIGURES = ("fig09_cfg_scale", "fig11_lora_weight")
IMAGES = 4
MODULES = 986
MEMORY_GB, DISK_GB = 17.0, 3.0
MOST_MEMORY_GB = 24.0
TE_PARTS = ("mlp_fc1", "mlp_fc2", "self_attn_k_proj", "self_attn_out_proj", "self_attn_q_proj", "self_attn_v_proj")
UNET_PARTS = ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2")


def expected_names() -> set[str]:
    """The file's modules as kohya names them, worked out from the networks' own shapes."""
    import torch
    from make_checkpoint import sdxl_text_encoders, sdxl_unet
    from pack.trainer.sdxl.unet_names import to_original

    linear = [n for n, m in sdxl_unet().named_modules() if isinstance(m, torch.nn.Linear) and n.endswith(UNET_PARTS)]
    names = {"lora_unet_" + original.replace(".", "_") for original in to_original(linear).values()}
    for number, encoder in enumerate(sdxl_text_encoders(), 1):
        layers = range(encoder.config.num_hidden_layers)
        names |= {f"lora_te{number}_text_model_encoder_layers_{layer}_{part}" for layer in layers for part in TE_PARTS}
    return names


def thesis_graph(checkpoint: str, size: int, steps: int) -> Graph:
    """The shipped workflow with checkpoint, size and steps replaced.

    Raises:
        dev.Failure: it is not the workflow that this program knows.
    """
    graph: Graph = json.loads(dev.need(WORKFLOW).read_text(encoding="utf-8"))
    changes = {
        "CheckpointLoaderSimple": {"ckpt_name": checkpoint},
        "MjesecLoadKohyaConfig": {"resolution": size, "steps": steps},
        "MjesecTrainLora": {},
    }
    for kind, values in changes.items():
        found = [each["inputs"] for each in graph.values() if each["class_type"] == kind]
        if not found or not values.keys() <= found[0].keys():
            raise dev.Failure(f"'{WORKFLOW.name}' has no {kind} with {', '.join(values) or 'inputs'}.")
        found[0].update(values)
    return graph


def sampling_graph(checkpoint: str, lora: str, size: int) -> Graph:
    """The host's own nodes on the trained file."""
    return {
        "model": node("CheckpointLoaderSimple", ckpt_name=checkpoint),
        "lora": node(
            "LoraLoader", model=["model", 0], clip=["model", 1], lora_name=lora, strength_model=1.0, strength_clip=1.0
        ),
        "text": node("CLIPTextEncode", clip=["lora", 1], text="moon"),
        "empty": node("EmptyLatentImage", width=size, height=size, batch_size=1),
        "sampled": node(
            "KSampler", model=["lora", 0], positive=["text", 0], negative=["text", 0], latent_image=["empty", 0],
            seed=0, steps=2, cfg=1.0, sampler_name="euler", scheduler="normal", denoise=1.0,
        ),
        "decoded": node("VAEDecode", samples=["sampled", 0], vae=["model", 2]),
        "saved": node("SaveImage", images=["decoded", 0], filename_prefix="with_lora"),
    }  # fmt: skip


def check_file(path: Path) -> dict[str, int]:
    """Counts of the LoRA file.

    Raises:
        dev.Failure: names, shapes or values are not what kohya-based tools read.
    """
    import torch
    from safetensors.torch import load_file

    tensors = load_file(path)
    wanted = {f"{n}.{kind}" for n in expected_names() for kind in ("lora_down.weight", "lora_up.weight", "alpha")}
    if odd := sorted(wanted ^ tensors.keys()):
        raise dev.Failure(f"'{path.name}' lacks or adds {len(odd)} tensors, first '{odd[0]}'.")
    if bad := [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]:
        raise dev.Failure(f"'{bad[0]}' in '{path.name}' is not finite.")
    modules = {name.split(".", 1)[0] for name in tensors}
    moved = sum(bool(tensors[f"{name}.lora_up.weight"].any()) for name in modules)
    return {
        "modules": len(modules),
        "tensors": len(tensors),
        "parameters": sum(t.numel() for name, t in tensors.items() if not name.endswith("alpha")),
        "modules whose up weight moved": moved,
        "bytes": path.stat().st_size,
    }


def train_and_load(checkpoint: Path, size: int, steps: int) -> list[tuple[str, str]]:
    """Steps 1 to 3; returns what was found, as label and value."""
    with host_with(checkpoint, size, IMAGES, ("--cpu", *BF16)) as host:
        pid = host.pid
        if pid is None:
            raise dev.Failure("The host has ended.")
        began = time.monotonic()
        with Sampler(anonymous=lambda: process_memory(pid, "RssAnon")) as sampler:
            entry = run(host, thesis_graph(checkpoint.name, size, steps))
        seconds = time.monotonic() - began
        (path,) = sorted((host.base / "output" / "loras").glob("*.safetensors"))
        counts = check_file(path)
        peak = process_memory(pid, "VmHWM")
        run(host, sampling_graph(checkpoint.name, path.name, size))
        if lines := complaints(host.log_text()):
            raise dev.Failure(f"The host's log has {len(lines)} complaints, first: {lines[0]}")
        found = [
            ("status of the prompt", str(entry["status"]["status_str"])),
            ("seconds from /prompt to the file", f"{seconds:.0f}"),
            ("peak of resident memory, loading included", f"{peak / 1e9:.2f} GB"),
            ("peak of anonymous memory", f"{sampler.peak['anonymous'] / 1e9:.2f} GB"),
            *((label, f"{value:,}") for label, value in counts.items()),
            ("LoraLoader and KSampler", "no key was left over"),
        ]
    if counts["modules"] != MODULES or peak >= MOST_MEMORY_GB * 1e9:
        raise dev.Failure(f"{counts['modules']} modules, {peak / 1e9:.1f} GB; {MODULES} and less than 24 GB are asked.")
    return found


def figure_graph(name: str, checkpoint: str, size: int, steps: int) -> Graph:
    """A figure's workflow as it is but for checkpoint, size and steps.

    Raises:
        dev.Failure: it has no longer what is to be replaced.
    """
    graph: Graph = json.loads(dev.need(WORKFLOW.with_name(f"{name}.json")).read_text(encoding="utf-8"))
    changes: dict[str, dict[str, Any]] = {
        "CheckpointLoaderSimple": {"ckpt_name": checkpoint},
        "MjesecSweep": {"width": size, "height": size, "steps": steps},
    }
    for kind, values in changes.items():
        found = [each["inputs"] for each in graph.values() if each["class_type"] == kind]
        if not found or not values.keys() <= found[0].keys():
            raise dev.Failure(f"'{name}' has no {kind} with {', '.join(values)}.")
        for inputs in found:
            inputs.update(values)
    return graph


def draw_figures(checkpoint: Path, size: int, steps: int) -> list[tuple[str, str]]:
    """The workflows of FIGURES, each to its end; returns seconds, cells and files as label and value.

    Raises:
        dev.Failure: a cell has failed or a figure has left no file.
    """
    from sweep import random_lora

    found = []
    with host_with(checkpoint, size, 1, ("--cpu", *BF16)) as host:
        random_lora(checkpoint, host.base / "models" / "loras" / "mjesec.safetensors")
        for name in FIGURES:
            began = time.monotonic()
            graph = figure_graph(name, checkpoint.name, size, steps)
            entry = run(host, graph)
            (sweep,) = [key for key, each in graph.items() if each["class_type"] == "MjesecSweep"]
            report = entry["outputs"][sweep]["text"][0]
            files = dev.output_files(entry, host.base / "output")
            if "failed" in report or not files or not all(path.is_file() for path in files):
                raise dev.Failure(f"{name} left {len(files)} files and says: {report}")
            told = (
                f"{time.monotonic() - began:.0f} s, {report.splitlines()[0]} {', '.join(path.name for path in files)}"
            )
            found.append((name, told))
        if lines := complaints(host.log_text()):
            raise dev.Failure(f"The host's log has {len(lines)} complaints, first: {lines[0]}")
        if host.pid is not None:
            found.append(("peak of resident memory", f"{process_memory(host.pid, 'VmHWM') / 1e9:.2f} GB"))
    return found


def show(lines: Iterable[tuple[str, Any]]) -> None:
    for label, value in lines:
        print(f"{label}: {value}", flush=True)


def program() -> int:
    parser = argparse.ArgumentParser(prog="dev.py bench full_size", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--checkpoint", type=Path, help="an SDXL checkpoint; without it, random weights are made")
    parser.add_argument("--size", type=int, default=256, help="side of the training images in pixels")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--no-compare", action="store_true", help="leave out step 4")
    parser.add_argument("--figures", action="store_true", help="run fig09 and fig11 instead of a training")
    parser.add_argument("--quick", action="store_true", help="with --figures: on the tiny SDXL, 64 px, 1 step")
    options = parser.parse_args()
    if options.quick and not options.figures:
        parser.error("--quick goes with --figures: the training is checked against SDXL's own sizes")
    if options.quick:
        show(draw_figures(dev.TINY_SDXL, 64, 1))
        return 0
    checkpoint = full_size_checkpoint(options.checkpoint, setup().cache)
    check_room(Path(tempfile.gettempdir()), MEMORY_GB, DISK_GB)
    print(f"{machine()}, cpu; {options.size}x{options.size}, {options.steps} steps", flush=True)
    if options.figures:
        show(draw_figures(checkpoint, options.size, options.steps))
        return 0
    show(train_and_load(checkpoint, options.size, options.steps))
    if options.no_compare:
        return 0
    compare = Path(__file__).with_name("compare.py")
    command = [sys.executable, str(compare), "--checkpoint", str(checkpoint), "--size", str(options.size)]
    return subprocess.run(command, env=dev.clean_environment(), check=False).returncode


if __name__ == "__main__":
    sys.exit(main(program))
