"""Makes the workflows' thumbnails and the README's figures anew, unattended, on the tiny SDXL.

    python dev.py bench pictures [--only NAME ...] [--work FOLDER] [--train-steps 700]

Renders Moons, trains the quickstart's LoRA on them, and runs every shipped workflow as it is, but for checkpoint, LoRA
file, sizes and the numbers of a training. Each one's figure becomes `workflows/NAME.jpg`; those of SHOWN become
`docs/NAME.png`. --work keeps what was made, so that a second run computes only what has changed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
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
EPOCHS = 25  # of 48 Moons each
# what suits the tiny SDXL and no other
QUICK = {"batch_size": 8, "rank": 16, "alpha": 16.0, "unet_lr": 2e-3, "text_lr": 5e-4, "gradient_checkpointing": False}


def small(graph: Graph, train_steps: int) -> Graph:
    """The graph for the tiny SDXL, small; numbers of sampling steps, seeds, prompts and values stay as they are."""
    changes: dict[str, dict[str, Any]] = {
        "CheckpointLoaderSimple": {"ckpt_name": dev.TINY_SDXL.name},
        "MjesecLoadKohyaConfig": {"resolution": SIZE, "steps": min(300, train_steps)},
        "MjesecTrainSettings": {**QUICK, "resolution": SIZE, "steps": train_steps},
    }
    for node in graph.values():
        inputs = node["inputs"]
        inputs |= changes.get(node["class_type"], {})
        if inputs.get("save_every_epochs"):
            inputs["save_every_epochs"] = EPOCHS
        if node["class_type"] in ("MjesecSweep", "EmptyLatentImage", "MjesecNightScene"):
            inputs |= {"width": SIZE, "height": SIZE}
        if str(inputs.get("lora_name", "")).endswith(".safetensors"):
            inputs["lora_name"] = LORA
    return graph


def pictures_of(graph: Graph, entry: Mapping[str, Any], output: Path) -> dict[str, Path]:
    """What a finished workflow shows, by file name prefix: its figures, and where there are none its saved images."""
    for kind in ("MjesecFigure", "SaveImage"):
        keys = [key for key, node in graph.items() if node["class_type"] == kind]
        if keys:
            files = {key: dev.output_files({"outputs": {key: entry["outputs"][key]}}, output)[0] for key in keys}
            return {graph[key]["inputs"]["filename_prefix"]: path for key, path in files.items()}
    raise dev.Failure("The workflow left no picture.")


def montage(pictures: Sequence[Path]) -> Image.Image:
    """Pictures of one width below each other in two columns."""
    width, columns = 480, [[], []]  # type: ignore[var-annotated]
    for path in pictures:
        with Image.open(path) as image:
            scaled = image.convert("RGB").resize((width, round(image.height * width / image.width)))
        min(columns, key=lambda column: sum(one.height for one in column)).append(scaled)
    sheet = Image.new("RGB", (2 * width, max(sum(one.height for one in column) for column in columns)), "white")
    for x, column in enumerate(columns):
        for at, one in enumerate(column):
            sheet.paste(one, (x * width, sum(before.height for before in column[:at])))
    return sheet


def thumbnail(picture: Image.Image, path: Path) -> None:
    shown = picture.convert("RGB")
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
            own = made.get(f"mjesec/{name}") or next(iter(made.values()))
            picture = montage(list(made.values())) if name == "thesis_all" else Image.open(own)
            thumbnail(picture, WORKFLOWS / f"{name}.jpg")
            if name in SHOWN:
                # without the graph in it, which is a file of its own here
                picture.convert("RGB").save(dev.ROOT / "docs" / f"{name}.png", optimize=True)
            print(f"{name}: {own.name}", flush=True)
    return 0


def program() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these workflows; quickstart's LoRA must be there")
    parser.add_argument("--work", type=Path, help="ComfyUI's base folder, kept; else a temporary one")
    parser.add_argument("--train-steps", type=int, default=700, help="of the quickstart's LoRA")
    return make(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main(program))
