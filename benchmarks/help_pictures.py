"""Makes the pictures of the nodes' help pages and of the editor anew, unattended, on the tiny SDXL.

    python dev.py bench help_pictures [--only NAME ...] [--work FOLDER] [--train-steps 400]

One graph with every node runs in the graph editor, in Chromium: web/docs/img/NODE.webp. Nodes that make a picture are
shown by it, every other one as the editor shows it after the run. Then the quickstart runs, for docs/editor_*.png of
the README. --work keeps what was made, so that a second run computes only what changed.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from pathlib import Path
from typing import Any

import _pack
from _hosts import Graph, main, node, with_defaults
from PIL import Image

import dev

_pack.load_by_path("conftest", dev.ROOT / "tests" / "conftest.py")

from browser_editor import Editor, chromium_path, launch, open_editor, prepare_user, sync_playwright  # noqa: E402
from host_server import Host  # noqa: E402

FOLDER = dev.ROOT / "web" / "docs" / "img"
SMALLEST, WIDEST = 200, 640
LARGEST = 40_000  # bytes
SCREENS = ("editor_quickstart", "editor_figure_viewer")
SIZE = 128
KOHYA = 'resolution = "1024,1024"\nlearning_rate = 1e-4\nmax_train_steps = 1600\nnetwork_dim = 32\nxformers = true\n'
PROMPT = "a photo of the full moon"

# brings a node alone to the middle of the canvas at 100 %, and returns its place on the page
PLACE = """kind => {
    const { canvas, graph } = window.app
    const node = graph.nodes.find(node => node.comfyClass === kind)
    for (const each of document.querySelectorAll('[data-node-id]')) {
        each.style.visibility = each.dataset.nodeId === node.id ? 'visible' : 'hidden'
    }
    canvas.links_render_mode = window.LiteGraph.HIDDEN_LINK
    canvas.ds.scale = 1
    canvas.centerOnNode(node)
    canvas.deselectAll()
    const shown = document.querySelector(`[data-node-id="${node.id}"]`).getBoundingClientRect()
    return { x: shown.x, y: shown.y, width: shown.width, height: shown.height }
}"""


def whole_graph(train_steps: int) -> Graph:
    """Every node once, and what its picture needs around it."""
    return {**_datasets(), **_training(train_steps), **_sweep(), **_views(), **_other_pictures()}


def _datasets() -> Graph:
    return {
        "ckpt": node("CheckpointLoaderSimple", ckpt_name=dev.TINY_SDXL.name),
        "moons": node("MjesecMoonDataset", count=24, size=SIZE, seed=1),
        "folder": node("MjesecLoadImageDataset", folder="input/moon", clip=["ckpt", 1], settings=["memory", 0]),
        "wires": node("MjesecDatasetFromImages", images=["scene", 0], captions="a night over pines"),
        "data": node("MjesecCombineDatasets", dataset=["moons", 0], dataset_2=["folder", 0]),
        "sheets": node("PreviewImage", images=["wires", 1]),
    }


def _training(steps: int) -> Graph:
    numbers = {"steps": steps, "resolution": SIZE, "batch_size": 8, "rank": 16, "alpha": 16.0, "unet_lr": 2e-3}
    options = ["Optimizer", "Loss", "Adapter", "Caption", "Image", "Checkpoint", "Memory"]
    chain = ["settings", *(name.lower() for name in options)]
    graph = {
        "settings": node("MjesecTrainSettings", output_name="moon", text_lr=5e-4, validation_images=8, **numbers),
        "thesis": node("MjesecThesisSettings", output_name="moon"),
        "kohya": node("MjesecLoadKohyaConfig", text=KOHYA),
        "told": node("PreviewAny", source=["kohya", 1]),
        "samples": node("MjesecTrainingSamples", prompts=PROMPT, every=200, width=SIZE, height=SIZE),
        "train": node(
            "MjesecTrainLora", model=["ckpt", 0], clip=["ckpt", 1], vae=["ckpt", 2], dataset=["data", 0],
            settings=["memory", 0], samples=["samples", 0],
        ),
        "chart": node("MjesecLossChart", loss_map=["train", 2], title="Loss", width=1280, height=640),
        "lora": node("MjesecLoadLora", model=["ckpt", 0], clip=["ckpt", 1], lora=["train", 0]),
    }  # fmt: skip
    for before, name, kind in zip(chain, chain[1:], options, strict=False):
        graph[name] = node(f"Mjesec{kind}Options", settings=[before, 0])
    return graph


def _sweep() -> Graph:
    return {
        "weights": node("MjesecSweepAxis", parameter="LoRA weight", values="0, 0.5, 1"),
        "seeds": node("MjesecSweepAxis", parameter="seed", values="1, 2", axes=["weights", 0]),
        "sweep": node(
            "MjesecSweep", model=["ckpt", 0], clip=["ckpt", 1], vae=["ckpt", 2], lora=["train", 0], axes=["seeds", 0],
            prompt=PROMPT, width=SIZE, height=SIZE, cfg=3.0, sampler="euler_ancestral", scheduler="normal",
        ),
        "MjesecFigure": figure("sweep", "MjesecFigure", title="Moon, without and with the LoRA"),
    }  # fmt: skip


def _views() -> Graph:
    """Every node that makes a grid of another grid, each with a figure of its own."""
    kinds: dict[str, dict[str, Any]] = {
        "MjesecSelectCells": {"keep": "LoRA weight: 1, 0\nSeed: 2"},
        "MjesecCropCells": {"x": 30.0, "y": 30.0, "width": 30.0, "height": 30.0, "inset": True},
        "MjesecCompareCells": {"reference": 1},
        "MjesecAverageCells": {"axis": "Seed", "show": "mean"},
        "MjesecMeasureCells": {"measure": "contrast"},
        "MjesecNearestTrainingImage": {"dataset": ["data", 0], "vae": ["ckpt", 2]},
    }
    graph = {}
    for kind, inputs in kinds.items():
        graph[f"made by {kind}"] = node(kind, grid=["sweep", 0], **inputs)
        graph[kind] = figure(f"made by {kind}", kind)
    graph["MjesecNearestTrainingImage"]["inputs"]["grid"][1] = 1
    return graph


def _other_pictures() -> Graph:
    sampling = {"steps": 20, "cfg": 3.0, "sampler": "euler_ancestral", "scheduler": "normal"}
    return {
        "scene": node("MjesecNightScene", width=SIZE * 2, height=SIZE * 2),
        "mask": node("MaskToImage", mask=["scene", 1]),
        "add scene": node("MjesecAddToGrid", image=["scene", 0], name="scene"),
        "add mask": node("MjesecAddToGrid", image=["mask", 0], name="mask", grid=["add scene", 0]),
        "MjesecNightScene": figure("add mask", "MjesecNightScene"),
        "add base": node("MjesecAddToGrid", image=["moons", 1], name="contact sheet"),
        "add chart": node("MjesecAddToGrid", image=["chart", 0], name="chart", grid=["add base", 0]),
        "MjesecAddToGrid": figure("add chart", "MjesecAddToGrid"),
        "picked": node("MjesecPickCell", grid=["sweep", 0], cell="LoRA weight: 1\nSeed: 2"),
        "MjesecPickCell": save(["picked", 0], "MjesecPickCell"),
        "small scene": node("MjesecNightScene", width=SIZE, height=SIZE),
        "set in": node("MjesecCompositeCells", grid=["sweep", 0], image=["small scene", 0], mask=["small scene", 1]),
        "MjesecCompositeCells": figure("set in", "MjesecCompositeCells"),
        "MjesecMoonDataset": save(["moons", 1], "MjesecMoonDataset"),
        "MjesecLossChart": save(["chart", 0], "MjesecLossChart"),
        "yes": node("CLIPTextEncode", clip=["lora", 1], text=PROMPT),
        "no": node("CLIPTextEncode", clip=["lora", 1], text=""),
        "empty": node("EmptyLatentImage", width=SIZE, height=SIZE, batch_size=1),
        "strip": node(
            "MjesecDenoisingStrip", model=["lora", 0], positive=["yes", 0], negative=["no", 0],
            latent_image=["empty", 0], vae=["ckpt", 2], at_steps="0, 2, 5, 10, 20", **sampling,
        ),
        "MjesecDenoisingStrip": figure("strip", "MjesecDenoisingStrip"),
        "losses": node(
            "MjesecLossByWeight", model=["ckpt", 0], clip=["ckpt", 1], vae=["ckpt", 2], dataset=["data", 0],
            settings=["memory", 0], lora=["train", 0], weights="0, 0.5, 1",
        ),
        "MjesecLossByWeight": figure("losses", "MjesecLossByWeight"),
    }  # fmt: skip


def figure(grid: str, name: str, **inputs: Any) -> dict[str, Any]:
    return node("MjesecFigure", grid=[grid, 0], filename_prefix=f"help/{name}", **inputs)


def save(image: list[Any], name: str) -> dict[str, Any]:
    return node("SaveImage", images=image, filename_prefix=f"help/{name}")


def small(picture: Image.Image) -> bytes:
    """A WebP of at most WIDEST pixels and LARGEST bytes; a single cell is drawn twice as large."""
    picture = picture.convert("RGB")
    if picture.width < SMALLEST:
        picture = picture.resize((2 * picture.width, 2 * picture.height), Image.Resampling.NEAREST)
    picture.thumbnail((WIDEST, 10 * WIDEST), Image.Resampling.LANCZOS)
    for quality in range(90, 20, -10):
        file = io.BytesIO()
        picture.save(file, "WEBP", quality=quality, method=6)
        if file.tell() <= LARGEST:
            break
    return file.getvalue()


def taken(editor: Editor, kind: str) -> Image.Image:
    """The node as the editor shows it."""
    for _ in range(2):  # it is drawn larger or smaller than before
        area = editor.js(PLACE, kind)
        editor.settle()
    clip = {"x": area["x"] - 6, "y": area["y"] - 6, "width": area["width"] + 12, "height": area["height"] + 12}
    return Image.open(io.BytesIO(editor.page.screenshot(clip=clip)))


def picture_nodes(editor: Editor, graph: Graph, kinds: list[str]) -> None:
    FOLDER.mkdir(exist_ok=True)
    editor.page.set_viewport_size({"width": 1600, "height": 1700})
    editor.open_api(graph)
    files = {path.name.rsplit("_", 2)[0]: path for path in editor.queue(timeout_s=3600)}
    editor.page.wait_for_timeout(1000)  # the last texts arrive after the run has ended
    for kind in kinds:
        picture = small(Image.open(files[kind]) if kind in files else taken(editor, kind))
        (FOLDER / f"{kind}.webp").write_bytes(picture)
        print(f"{kind}: {'its picture' if kind in files else 'the node'}, {len(picture)} bytes", flush=True)


def picture_editor(editor: Editor, train_steps: int) -> None:
    """The quickstart after it ran, whole, and its cells in the figure viewer."""
    editor.page.set_viewport_size({"width": 1600, "height": 900})
    editor.load()  # links are hidden
    editor.open_template("quickstart")
    editor.js(
        "steps => { window.app.graph.nodes.find(node => node.comfyClass === 'MjesecTrainSettings')"
        ".widgets.find(widget => widget.name === 'steps').value = steps }",
        train_steps,
    )
    editor.queue(timeout_s=3600)
    editor.command("Comfy.Canvas.FitView")
    editor.page.wait_for_timeout(8000)  # until the notice of the finished run is gone
    keep_screen(editor, "editor_quickstart")
    editor.press("MjesecFigure", "Explore cells")
    cells = editor.page.get_by_role("gridcell")
    cells.first.click()
    editor.page.keyboard.press("ArrowRight")
    editor.page.wait_for_timeout(1000)
    keep_screen(editor, "editor_figure_viewer")


def keep_screen(editor: Editor, name: str) -> None:
    picture = Image.open(io.BytesIO(editor.page.screenshot())).convert("RGB")
    # few colours: a third of the size, and nobody sees it
    few = picture.quantize(256, dither=Image.Dither.FLOYDSTEINBERG)
    few.save(dev.ROOT / "docs" / f"{name}.png", optimize=True)
    print(name, flush=True)


def make(host: Host, graph: Graph, names: list[str], train_steps: int) -> None:
    chromium = chromium_path()
    if chromium is None:
        raise dev.Failure("The nodes are shown in a browser: install Chromium, or name it in MJESEC_CHROMIUM.")
    with sync_playwright() as playwright, open_editor(launch(playwright, chromium), host, "vue") as editor:
        if kinds := [name for name in names if name not in SCREENS]:
            picture_nodes(editor, graph, kinds)
        if len(kinds) < len(names):
            picture_editor(editor, train_steps)


def program() -> int:
    from pack.trainer.moons.folder import render_moons

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help=f"of these nodes, or {', '.join(SCREENS)}")
    parser.add_argument("--work", type=Path, help="ComfyUI's base folder, kept; else a temporary one")
    parser.add_argument("--train-steps", type=int, default=400)
    options = parser.parse_args()
    dev.compute_in_one_thread()
    with tempfile.TemporaryDirectory(prefix="mjesec-help-") as temporary:
        base = options.work or Path(temporary) / "ComfyUI"
        base.mkdir(parents=True, exist_ok=True)
        render_moons(base / "input" / "moon", 24, SIZE, seed=2)
        with Host(base, "--cpu") as host:
            dev.check_loaded(host)
            prepare_user(host)
            names = [kind for kind in sorted(host.get("/object_info")) if kind.startswith("Mjesec")]
            graph = with_defaults(host, whole_graph(options.train_steps))
            wanted = [name for name in [*names, *SCREENS] if not options.only or name in options.only]
            make(host, graph, wanted, options.train_steps)
    return 0


if __name__ == "__main__":
    sys.exit(main(program))
