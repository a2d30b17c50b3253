"""Makes the workflows' thumbnails and the README's figures anew, unattended, on the tiny SDXL.

    python dev.py bench pictures [--only NAME ...] [--work FOLDER] [--train-steps 700]

Renders Moons, trains the quickstart's LoRA on them, and runs every shipped workflow as it is, but for checkpoint, LoRA
file and sizes. Each one's last figure becomes `workflows/NAME.jpg`; those of SHOWN become `docs/NAME.png`.
--work keeps what was made, so that a second run computes only what has changed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import _pack  # noqa: F401 - makes `pack` and `dev` importable
from _hosts import Graph, main, run
from PIL import Image

import dev

SIZE = 128
THUMBNAIL = (640, 400)
SHOWN = ("quickstart", "fig08b_sampling_steps", "fig09_cfg_scale", "fig10_denoising", "fig11_lora_weight")
WORKFLOWS = dev.ROOT / "workflows"
LORA = "mjesec_quickstart.safetensors"


def small(graph: Graph, train_steps: int) -> Graph:
    """The graph for the tiny SDXL; numbers of sampling steps, seeds, prompts and values stay as they are."""
    changes: dict[str, dict[str, Any]] = {
        "CheckpointLoaderSimple": {"ckpt_name": dev.TINY_SDXL.name},
        "MjesecThesisSettings": {"resolution": SIZE, "steps": min(300, train_steps)},
        "MjesecTrainSettings": {"resolution": SIZE, "steps": train_steps, "batch_size": 8},
    }
    for node in graph.values():
        inputs = node["inputs"]
        inputs |= changes.get(node["class_type"], {})
        if node["class_type"] in ("MjesecSweep", "EmptyLatentImage", "MjesecNightScene"):
            inputs |= {"width": SIZE, "height": SIZE}
        if str(inputs.get("lora_name", "")).endswith(".safetensors"):
            inputs["lora_name"] = LORA
    return graph


def pictures_of(graph: Graph, entry: Mapping[str, Any], output: Path) -> list[Path]:
    """What a finished workflow shows: its figures, and where there are none its saved images."""
    for kind in ("MjesecFigure", "SaveImage"):
        keys = [key for key, node in graph.items() if node["class_type"] == kind]
        found = [path for key in keys for path in dev.output_files({"outputs": {key: entry["outputs"][key]}}, output)]
        if found := [path for path in found if path.suffix == ".png"]:
            return found
    raise dev.Failure("The workflow left no picture.")


def thumbnail(picture: Path, path: Path) -> None:
    with Image.open(picture) as image:
        shown = image.convert("RGB")
        shown.thumbnail(THUMBNAIL, Image.Resampling.LANCZOS)
        shown.save(path, quality=85, optimize=True)


@contextlib.contextmanager
def host(work: Path | None) -> Iterator[dev.HostProcess]:
    from pack.trainer.moons import render_moons

    comfyui = dev.local_comfyui(dev.ROOT, os.environ)
    if comfyui is None:
        raise dev.Failure("A ComfyUI is needed: start this with `python dev.py bench pictures`.")
    setup = dev.Setup(comfyui, Path(sys.executable), dev.cache_folder(os.environ))
    with tempfile.TemporaryDirectory(prefix="mjesec-pictures-") as temporary:
        base = work or Path(temporary)
        base.mkdir(parents=True, exist_ok=True)
        render_moons(base / "input" / "moon", 48, SIZE, seed=1)
        with dev.HostProcess(setup, base, base / "comfyui.log", ["--cpu"]) as process:
            dev.check_loaded(process)
            yield process


def make(options: argparse.Namespace) -> int:
    # the LoRA that the others take comes first
    names = sorted((path.stem for path in WORKFLOWS.glob("*.json")), key=lambda name: (name != "quickstart", name))
    with host(options.work) as process:
        for name in names:
            if options.only and name not in options.only:
                continue
            text = (WORKFLOWS / "api" / f"{name}.json").read_text(encoding="utf-8")
            graph = small(json.loads(text), options.train_steps)
            entry = run(process, graph)
            made = pictures_of(graph, entry, process.base / "output")
            thumbnail(made[-1], WORKFLOWS / f"{name}.jpg")
            if name in SHOWN:
                with Image.open(made[-1]) as image:
                    # without the graph in it, which is a file of its own here
                    image.convert("RGB").save(dev.ROOT / "docs" / f"{name}.png", optimize=True)
            print(f"{name}: {made[-1].name}", flush=True)
    return 0


def program() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these workflows; quickstart's LoRA must be there")
    parser.add_argument("--work", type=Path, help="ComfyUI's base folder, kept; else a temporary one")
    parser.add_argument("--train-steps", type=int, default=700, help="of the quickstart's LoRA")
    return make(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main(program))
