"""Our trainer and ComfyUI's own, on the same checkpoint, images, host version and machine, one after the other.

    python dev.py bench train [--size 256] [--steps 12] [--device cpu|cuda] [--checkpoint PATH] [--quick]

Each trains in a fresh host process, queued over /prompt: batch 1, rank 32, bf16, no gradient checkpointing.

* ComfyUI's TrainLoraNode in bypass mode, everything else at its defaults (bf16 adapters, AdamW).
* Mjesec on the U-Net only: fp32 adapters under autocast, gradient clipping, AdamW.

Seconds a step: the median over the progress that each trainer writes to the log, from the second step on. CPU seconds:
processor time of the host process over the same steps, which other programs on the machine disturb less. Memory added:
the peak of the process's anonymous memory (on a GPU: of the device's) while the training prompt runs, less what it is
once the models are loaded, have encoded and sampled, and idle. Still held: the same difference five seconds after the
prompt ended.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from _hosts import (
    BF16,
    Graph,
    Sampler,
    check_room,
    cpu_seconds,
    device_memory,
    full_size_checkpoint,
    host_with,
    machine,
    main,
    node,
    process_memory,
    run,
    setup,
    table,
)

import dev

IMAGES = 4
RANK = 32
SETTLE_S = 5.0
FULL_MEMORY_GB, FULL_DISK_GB = 17.0, 2.0
BAR_TIME, BAR_ADDED, BAR_HELD_GB = 0.65, 0.5, 0.3


@dataclass(frozen=True)
class Contender:
    """One trainer. ``train`` adds its nodes to a graph; ``progress`` finds 'step/steps' in its log."""

    name: str
    train: Callable[[Graph, int, int], Graph]
    progress: re.Pattern[str]


@dataclass(frozen=True)
class Measured:
    """Seconds a step, and bytes."""

    name: str
    seconds: float
    cpu: float
    idle: float
    added: float
    held: float


def loaded(checkpoint: str, size: int) -> Graph:
    """Loads everything and uses it once: text, VAE both ways, one step of the sampler."""
    return {
        "model": node("CheckpointLoaderSimple", ckpt_name=checkpoint),
        "images": node("LoadImageDataSetFromFolder", folder="moon"),
        "latents": node("VAEEncode", pixels=["images", 0], vae=["model", 2]),
        "text": node("CLIPTextEncode", clip=["model", 1], text="moon"),
        "decoded": node("VAEDecode", samples=["latents", 0], vae=["model", 2]),
        "shown": node("PreviewImage", images=["decoded", 0]),
        "empty": node("EmptyLatentImage", width=size, height=size, batch_size=1),
        "sampled": node(
            "KSampler", model=["model", 0], positive=["text", 0], negative=["text", 0], latent_image=["empty", 0],
            seed=0, steps=1, cfg=1.0, sampler_name="euler", scheduler="normal", denoise=1.0,
        ),
        "saved": node("SaveLatent", samples=["sampled", 0], filename_prefix="warm"),
    }  # fmt: skip


def hosts_trainer(graph: Graph, size: int, steps: int) -> Graph:
    """ComfyUI's node; every input that is not given stands at its default."""
    kept = {name: graph[name] for name in ("model", "images", "latents", "text")}
    return kept | {
        "train": node(
            "TrainLoraNode", model=["model", 0], latents=["latents", 0], positive=["text", 0], steps=steps, rank=RANK,
            training_dtype="bf16", gradient_checkpointing=False, existing_lora="[None]", bypass_mode=True,
        ),
        "keep": node("SaveLoRA", lora=["train", 0], prefix="loras/host", steps=["train", 2]),
    }  # fmt: skip


def our_trainer(graph: Graph, size: int, steps: int) -> Graph:
    return {"model": graph["model"]} | {
        "dataset": node("MjesecLoadImageDataset", folder="input/moon", default_caption="moon"),
        "settings": node(
            "MjesecTrainSettings", output_name="ours", steps=steps, resolution=size, batch_size=1, train="unet",
            rank=RANK, alpha=float(RANK), optimizer="adamw", precision="bf16", gradient_checkpointing=False,
        ),
        "train": node(
            "MjesecTrainLora", model=["model", 0], clip=["model", 1], vae=["model", 2], dataset=["dataset", 0],
            settings=["settings", 0],
        ),
    }  # fmt: skip


CONTENDERS = {
    "host": Contender("ComfyUI's TrainLoraNode, bypass mode", hosts_trainer, re.compile(r"\| (\d+)/(\d+) \[")),
    "ours": Contender("Mjesec", our_trainer, re.compile(r"\[Mjesec\] step (\d+)/(\d+),")),
}


class StepClock:
    """When each step was first seen to be finished in a log, in seconds and in the process's CPU seconds."""

    def __init__(self, log: Path, pattern: re.Pattern[str], steps: int, pid: int) -> None:
        self._log, self._pattern, self._steps, self._pid = log, pattern, steps, pid
        self._position, self._rest = log.stat().st_size, ""
        self.seen: dict[int, tuple[float, float]] = {}

    def __call__(self) -> float:
        """Reads on; returns the number of steps that are finished."""
        now = time.monotonic(), cpu_seconds(self._pid)
        with self._log.open("rb") as file:
            file.seek(self._position)
            data = file.read()
        self._position += len(data)
        # progress bars end a line with the next one's carriage return, so the unfinished line counts as well
        text = self._rest + data.decode("utf-8", errors="replace")
        self._rest = re.split(r"[\r\n]", text)[-1]
        for done, of in self._pattern.findall(text):
            if int(of) == self._steps:
                self.seen.setdefault(int(done), now)
        return max(self.seen, default=0)

    def per_step(self) -> tuple[float, float]:
        """Seconds (median over the intervals) and CPU seconds (mean) of the steps after the second.

        Raises:
            dev.Failure: the log told of fewer than two moments.
        """
        points = sorted((step, *moment) for step, moment in self.seen.items() if step >= 2)
        if len(points) < 2:
            raise dev.Failure(f"{self._steps} steps were over too fast to be timed; give more --steps.")
        paces = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in zip(points, points[1:], strict=False)]
        first, last = points[0], points[-1]
        return statistics.median(paces), (last[2] - first[2]) / (last[0] - first[0])


def measure(contender: Contender, checkpoint: Path, options: argparse.Namespace) -> Measured:
    on_gpu = options.device == "cuda"
    arguments = BF16 if on_gpu else ("--cpu", *BF16)
    with host_with(checkpoint, options.size, IMAGES, arguments) as host:
        pid = host.pid
        if pid is None:
            raise dev.Failure("The host has ended.")

        def memory() -> float:
            return device_memory(host) if on_gpu else process_memory(pid, "RssAnon")

        graph = loaded(checkpoint.name, options.size)
        run(host, graph)
        time.sleep(SETTLE_S)
        idle = memory()
        print(f"{contender.name}: loaded and idle at {idle / 1e9:.2f} GB; training {options.steps} steps", flush=True)
        clock = StepClock(host.log, contender.progress, options.steps, pid)
        with Sampler(memory=memory, steps=clock) as sampler:
            run(host, contender.train(graph, options.size, options.steps))
        time.sleep(SETTLE_S)
        held = memory() - idle
        return Measured(contender.name, *clock.per_step(), idle, sampler.peak["memory"] - idle, held)


def report(results: list[Measured], *, with_aims: bool) -> str:
    """The table, with the ratios where both trainers ran."""
    rows = [("trainer", "seconds a step", "CPU seconds", "memory added", "still held after")]
    for m in results:
        memory = f"{m.added / 1e9:.2f} GB", f"{m.held / 1e9:.2f} GB"
        rows.append((m.name, f"{m.seconds:.3g}", f"{m.cpu:.3g}", *memory))
    if len(results) == 2:
        host, ours = results
        times = f"{ours.seconds / host.seconds:.2f}", f"{ours.cpu / max(host.cpu, 1e-9):.2f}"
        rows.append(("ours / host's", *times, _ratio(ours.added, host.added), _ratio(ours.held, host.held)))
    if with_aims:
        rows.append(("aim, at most", f"{BAR_TIME:g}", "", f"{BAR_ADDED:g}", f"{BAR_HELD_GB:g} GB"))
    return table(rows)


def _ratio(ours: float, hosts: float) -> str:
    # what one of them gave back, or never took, has no ratio
    return f"{ours / hosts:.2f}" if hosts > 0 and ours > 0 else ""


def program() -> int:
    parser = argparse.ArgumentParser(prog="dev.py bench train", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--size", type=int, help="side of the training images in pixels (256; quick: 128)")
    parser.add_argument("--steps", type=int, help="optimizer steps of each (12; quick: 40)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--checkpoint", type=Path, help="an SDXL checkpoint; without it, random weights are made")
    parser.add_argument("--quick", action="store_true", help="on the tiny SDXL: a smoke test, no measurement")
    parser.add_argument("--only", choices=tuple(CONTENDERS), help="only one of the two")
    options = parser.parse_args()
    options.size = options.size or (128 if options.quick else 256)
    options.steps = options.steps or (40 if options.quick else 12)

    cache = setup().cache
    if options.quick:
        checkpoint = dev.need(dev.TINY_SDXL)
    else:
        checkpoint = full_size_checkpoint(options.checkpoint, cache)
        check_room(Path(tempfile.gettempdir()), FULL_MEMORY_GB, FULL_DISK_GB)
    chosen = [options.only] if options.only else list(CONTENDERS)
    results = [measure(CONTENDERS[name], checkpoint, options) for name in chosen]
    what = "tiny SDXL (smoke test)" if options.quick else "SDXL"
    print(f"\n{machine()}, {options.device}")
    print(f"{what}, {options.size}x{options.size}, batch 1, rank {RANK}, {options.steps} steps\n")
    print(report(results, with_aims=not options.quick))
    return 0


if __name__ == "__main__":
    sys.exit(main(program))
