"""How fast do photographs become latents? SDXL's VAE encoder with random weights, on files made for it.

    python dev.py bench cache [--images 1344] [--size 1024] [--device cuda|cpu] [--work FOLDER]

One file is broken on purpose: it must not stop the others. The second pass finds everything on disk. On a CPU, 4 images
are the default.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import _pack  # noqa: F401 - makes the plugin importable as `pack`
import numpy as np
import torch
from diffusers import AutoencoderKL
from pack.trainer.dataset.buckets import BucketSettings
from pack.trainer.dataset.samples import Dataset
from pack.trainer.dataset.scan import scan_folder
from pack.trainer.errors import BrokenImages
from pack.trainer.runs.console import ConsoleWatcher
from pack.trainer.sdxl.parts import Encode
from pack.trainer.sdxl.single_file import make_encoder
from pack.trainer.settings.training import TrainSettings
from pack.trainer.training.data import prepare
from pack.trainer.training.latents import LatentsCache
from PIL import Image

WIDTHS = (128, 256, 512, 512)


@dataclass(frozen=True)
class Options:
    images: int
    size: int
    device: str
    work: str


def options_of() -> Options:
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(prog="dev.py bench cache", description=__doc__)
    parser.add_argument("--images", type=int, default=1344 if gpu else 4)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--device", default="cuda" if gpu else "cpu")
    parser.add_argument("--work", default="")
    return Options(**vars(parser.parse_args()))


def photographs(folder: Path, count: int, size: int) -> Dataset:
    """JPEG files of noise in patches, which no decoder finds easy; the scan reads them while they are still whole."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for index in range(count):
        patches = random.integers(0, 256, (size // 8, size // 8, 3), np.uint8)
        image = Image.fromarray(patches).resize((size, size), Image.Resampling.BICUBIC)
        image.save(folder / f"{index:05d}.jpg", quality=92)
    dataset = scan_folder(folder, default_caption="moon")
    broken = folder / f"{count // 2:05d}.jpg"
    broken.write_bytes(broken.read_bytes()[:1000])
    return dataset


def encoder(device: torch.device) -> Encode:
    vae = AutoencoderKL(
        block_out_channels=WIDTHS,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
    )
    kept = {n: t for n, t in vae.state_dict().items() if n.startswith(("encoder.", "quant_conv."))}
    return make_encoder(kept, device)


def run(dataset: Dataset, cache: LatentsCache, settings: TrainSettings) -> str:
    watcher, began = ConsoleWatcher(), time.monotonic()
    try:
        prepare(
            dataset, settings, cache, lambda text: [49406, 49407], lambda d, of: watcher.stage("encoding images", d, of)
        )
    except BrokenImages as error:
        print(error)
    return cache.told(time.monotonic() - began)


def main() -> int:
    options = options_of()
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(options.work or scratch)
        print(f"Making {options.images} photographs of {options.size}×{options.size} …", flush=True)
        dataset = photographs(work / "photographs", options.images, options.size)
        settings = TrainSettings(buckets=BucketSettings((options.size, options.size)))
        encode = encoder(torch.device(options.device))
        for name in ("First pass", "Second pass"):
            cache = LatentsCache(work / "latents", "bench", encode)
            print(f"{name} on {options.device}: {run(dataset, cache, settings)}", flush=True)
            if cache.hits + cache.misses != options.images - 1 or (name == "Second pass" and cache.misses):
                print("The cache did not keep every image but the broken one.", file=sys.stderr)
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
