"""Makes the workflows' thumbnails and the README's figures anew, unattended, on the tiny SDXL.

    python dev.py bench pictures [--only NAME ...] [--work FOLDER] [--train-steps 700]

Renders Moons, trains the quickstart's LoRA on them, and runs every shipped workflow as it is, but for checkpoint, LoRA
file, sizes, the numbers of a training, and some values and a seed that suit the tiny model. Each one's
figure becomes `workflows/NAME.jpg`; those of SHOWN become `docs/FIGURE.png`. --work keeps what was made, so that a
second run computes only what has changed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import _pack  # noqa: F401 - makes `pack` and `dev` importable
from _hosts import Graph, main, run, setup
from PIL import Image

import dev

SIZE = 128
THUMBNAIL = (640, 400)
SHOWN = {
    "quickstart": ("quickstart",),
    "fig08b_sampling_steps": ("fig08b_sampling_steps",),
    "fig09_cfg_scale": ("fig09_cfg_scale", "fig09_saturation"),
    "fig10_denoising": ("fig10_denoising",),
    "fig11_lora_weight": ("fig11_lora_weight",),
}
# a thumbnail of several figures, below each other
STACKED = {"fig09_cfg_scale": ("fig09_cfg_scale", "fig09_saturation")}
# the tiny model has settled after few steps, and its LoRA of a few minutes is too strong at 1 for long prompts
VALUES = {
    ("fig08a_long_prompt", "0, 1"): "0, 0.3",
    ("fig08b_sampling_steps", "5, 10, 15, 20, 30, 50"): "2, 4, 6, 8, 12, 20",
    ("fig13_inpainting", "0, 1"): "0, 0.5",
    ("thesis_all", "0, 1"): "0, 0.5",
}
# a seed whose Moon stays whole
SEEDS = {"fig08a_long_prompt": 2}
# and what the captions say of them
CAPTIONS = {
    "fig08a_long_prompt": ("(weight 1)", "(weight 0.3)"),
    "fig08b_sampling_steps": ("5 to 50", "2 to 20"),
    "fig13_inpainting": ("(weight 1)", "(weight 0.5)"),
}
# the cells that stand for their figures in the picture of all of them, by their number; elsewhere the last one
TELLING = {"fig09_cfg_scale": 3, "fig10_denoising": 6}
WORKFLOWS = dev.ROOT / "workflows"
LORA = "mjesec_quickstart.safetensors"
KEPT_EPOCHS = 5  # LoRA files that a training leaves, roughly
# what suits the tiny SDXL and no other
QUICK = {"batch_size": 8, "rank": 16, "alpha": 16.0, "unet_lr": 2e-3, "text_lr": 5e-4, "gradient_checkpointing": False}


def small(name: str, graph: Graph, train_steps: int) -> Graph:
    """The graph for the tiny SDXL, small; prompts, and all seeds and values but those above stay as they are."""
    changes: dict[str, dict[str, Any]] = {
        "CheckpointLoaderSimple": {"ckpt_name": dev.TINY_SDXL.name},
        "MjesecLoadKohyaConfig": {"resolution": SIZE, "steps": min(300, train_steps)},
        "MjesecTrainSettings": {**QUICK, "resolution": SIZE, "steps": train_steps},
    }
    for node in graph.values():
        inputs = node["inputs"]
        inputs |= changes.get(node["class_type"], {})
        if inputs.get("save_every_epochs"):
            # an epoch of 48 Moons has 6 batches
            inputs["save_every_epochs"] = max(1, train_steps // (6 * KEPT_EPOCHS))
        if node["class_type"] in ("MjesecSweep", "EmptyLatentImage", "MjesecNightScene"):
            inputs |= {"width": SIZE, "height": SIZE}
        if node["class_type"] == "MjesecSweep":
            inputs["seed"] = SEEDS.get(name, inputs["seed"])
        if isinstance(inputs.get("values"), str):
            inputs["values"] = VALUES.get((name, inputs["values"]), inputs["values"])
        if "caption" in inputs:
            inputs["caption"] = inputs["caption"].replace(*CAPTIONS.get(name, ("", "")))
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


def montage(pictures: Mapping[str, Path]) -> Image.Image:
    """One telling cell of each workflow's own figure, at its own pixels, above the figure's number."""
    from pack.figures.fonts import Face
    from PIL import ImageDraw

    face, side, foot = Face("sans", 18), 152, 40
    own = {name: path for name, path in pictures.items() if (WORKFLOWS / f"{name}.json").is_file()}
    shown = {name: _telling_cell(name, path) for name, path in own.items()}
    rows = -(-len(shown) // 4)
    sheet = Image.new("RGB", (4 * side, rows * (side + foot)), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (name, cell) in enumerate(shown.items()):
        x, y = number % 4 * side, number // 4 * (side + foot)
        sheet.paste(cell.resize((SIZE, SIZE)), (x + (side - SIZE) // 2, y + (side - SIZE) // 2))
        label = f"Slika {name.removeprefix('fig').split('_')[0].lstrip('0')}"
        pen.text((x + side // 2, y + side + 8), label, fill="#1b1c1e", font=face.font, anchor="ma")
    return sheet


def _telling_cell(name: str, figure: Path) -> Image.Image:
    manifest = figure.with_name(figure.name.replace("_.png", ".json"))
    cells = json.loads(manifest.read_text(encoding="utf-8"))["cells"]
    with Image.open(cells[TELLING.get(name, len(cells) - 1)]["path"]) as image:
        return image.convert("RGB")


def stacked(pictures: Sequence[Image.Image]) -> Image.Image:
    """Below each other, the narrower ones in the middle."""
    sheet = Image.new("RGB", (max(one.width for one in pictures), sum(one.height for one in pictures)), "white")
    y = 0
    for one in pictures:
        sheet.paste(one.convert("RGB"), ((sheet.width - one.width) // 2, y))
        y += one.height
    return sheet


def picture_of(name: str, made: Mapping[str, Path]) -> Image.Image:
    """What stands for a workflow: its own figure, or what takes its place."""
    if name == "thesis_all":
        return montage(made)
    own = STACKED.get(name) or ((name,) if name in made else tuple(made)[:1])
    return stacked([Image.open(made[figure]) for figure in own])


def thumbnail(picture: Image.Image, path: Path) -> None:
    shown = picture.convert("RGB")
    shown.thumbnail(THUMBNAIL, Image.Resampling.LANCZOS)
    shown.save(path, quality=85, optimize=True)


@contextlib.contextmanager
def host(work: Path | None) -> Iterator[dev.HostProcess]:
    from pack.trainer.moons.folder import render_moons

    with tempfile.TemporaryDirectory(prefix="mjesec-pictures-") as temporary:
        base = work or Path(temporary)
        base.mkdir(parents=True, exist_ok=True)
        render_moons(base / "input" / "moon", 48, SIZE, seed=1)
        with dev.HostProcess(setup(), base, base / "comfyui.log", ["--cpu"]) as process:
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
            graph = small(name, json.loads(text), options.train_steps)
            entry = run(process, graph)
            made = pictures_of(graph, entry, process.base / "output")
            made = {prefix.removeprefix("mjesec/"): path for prefix, path in made.items()}
            thumbnail(picture_of(name, made), WORKFLOWS / f"{name}.jpg")
            for figure in SHOWN.get(name, ()):
                with Image.open(made[figure]) as image:
                    # without the graph in it, which is a file of its own here
                    image.convert("RGB").save(dev.ROOT / "docs" / f"{figure}.png", optimize=True)
            print(f"{name}: {', '.join(made)}", flush=True)
    return 0


def program() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these workflows; quickstart's LoRA must be there")
    parser.add_argument("--work", type=Path, help="ComfyUI's base folder, kept; else a temporary one")
    parser.add_argument("--train-steps", type=int, default=700, help="of the quickstart's LoRA")
    return make(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main(program))
