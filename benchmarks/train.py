"""Our trainer and its peers, on the same checkpoint, images, host version and machine, one after the other.

    python dev.py bench train [--size 256] [--steps 12] [--device cpu|cuda] [--checkpoint PATH] [--rows NAME …]
    python dev.py bench train --rows host ours --rounds 3                      in turns, where neighbours are noisy
    python dev.py bench train --sd-scripts FOLDER [--sd-scripts-python PYTHON]     with kohya's trainer as well
    python dev.py bench train --quick

Each trains in a fresh process, on a GPU all in one, TrainLoraNode last: batch 1, rank 32, bf16, no gradient
checkpointing, but where its row says otherwise.

host        ComfyUI's TrainLoraNode in bypass mode, everything else at its defaults (bf16 adapters, AdamW)
ours        Mjesec on the U-Net only: fp32 adapters under bf16, gradient clipping, AdamW
ours4, low  on a GPU: the same in batches of 4; with gradient checkpointing and the frozen base in fp8
thesis      Mjesec with the thesis's settings: both text encoders, Adafactor
diffusers   the loop of diffusers' own script, adapters on the attention alone (`_diffusers_loop.py`); on a CPU
sd-scripts  kohya-ss/sd-scripts from a checkout and with an interpreter that has its requirements

Seconds a step: the median over the progress that each trainer writes, from the second step on. CPU seconds: processor
time of the process over the same steps, which other programs on the machine disturb less. Memory added: the peak of
the process's anonymous memory (on a GPU: of the device's) while it trains, less what it is once the models are loaded
and idle (on a GPU: unloaded again); of sd-scripts, less what it is once its network is about to be made. Still held:
the same difference five seconds after the training ended. Of several rounds the median of the times, and the most of
the memory.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from _contenders import (
    RANK,
    NodeTrainer,
    ProgramTrainer,
    contenders,
    loaded,
    sd_scripts,
    tokenizer_folder,
)
from _hosts import (
    BF16,
    Sampler,
    check_room,
    cpu_seconds,
    device_memory,
    full_size_checkpoint,
    host_with,
    machine,
    main,
    process_memory,
    run,
    setup,
    table,
)
from _programs import Program

import dev

IMAGES = 4
SETTLE_S, QUICK_SETTLE_S = 5.0, 0.5
FULL_MEMORY_GB, FULL_DISK_GB = 17.0, 2.0
BAR_TIME, BAR_ADDED, BAR_HELD_GB = 0.55, 0.4, 0.3
# of an H200, by row: milliseconds a step, share of the device's own speed, GB of the device in all
CUDA_AIMS = {"ours": "60 ms", "ours4": "50 % of peak", "thesis": "120 ms, 14 GB", "low": "7 GB"}
SPEED = re.compile(r"done at ([\d.e+-]+) TFLOP/s; a large product alone reaches ([\d.e+-]+) TFLOP/s")


@dataclass(frozen=True)
class Measured:
    """Seconds a step, and bytes. tflops, best: TFLOP/s reached and those of one large product; None where not told."""

    name: str
    batch: int
    seconds: float
    cpu: float
    idle: float
    added: float
    held: float | None
    tflops: float | None = None
    best: float | None = None


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


Contender = NodeTrainer | ProgramTrainer
Measure = Callable[[Contender], Measured]


@contextlib.contextmanager
def measuring(checkpoint: Path, options: argparse.Namespace) -> Iterator[Measure]:
    """What measures one row. On a GPU, whose memory tells what a training leaves, all rows share one ComfyUI."""
    if options.device == "cuda":
        with host_with(checkpoint, options.size, IMAGES, BF16) as host:
            yield lambda contender: _in_host(host, contender, checkpoint, options)
        return

    def measure(contender: Contender) -> Measured:
        if isinstance(contender, ProgramTrainer):
            return _by_itself(contender, checkpoint, options)
        with host_with(checkpoint, options.size, IMAGES, ("--cpu", *BF16)) as host:
            return _in_host(host, contender, checkpoint, options)

    yield measure


def _in_host(host: dev.HostProcess, contender: Contender, checkpoint: Path, options: argparse.Namespace) -> Measured:
    on_gpu = options.device == "cuda"
    if (pid := host.pid) is None or not isinstance(contender, NodeTrainer):
        raise dev.Failure("The host has ended.")

    def memory() -> float:
        return device_memory(host) if on_gpu else process_memory(pid, "RssAnon")

    graph = loaded(checkpoint.name, options.size)
    run(host, graph)
    if on_gpu:
        # what was loaded to be used once must not count for the peak of a training that needs less
        for _ in range(2):
            # the host's worker may miss the first while it cleans up after a prompt
            host.request("/free", {"unload_models": True})
            time.sleep(options.settle_s)
    time.sleep(options.settle_s)
    idle = memory()
    _announce(contender.name, idle, options)
    clock = StepClock(host.log, contender.progress, options.steps, pid)
    with Sampler(memory=memory, steps=clock) as sampler:
        entry = run(host, contender.train(graph, options.size, options.steps))
    time.sleep(options.settle_s)
    held = memory() - idle
    added = sampler.peak["memory"] - idle
    return Measured(contender.name, contender.batch, *clock.per_step(), idle, added, held, *_speeds(entry))


def _by_itself(contender: ProgramTrainer, checkpoint: Path, options: argparse.Namespace) -> Measured:
    with Program(contender, checkpoint, options.size, options.steps, options.device, IMAGES) as program:
        clock = StepClock(program.log, contender.progress, options.steps, program.pid)
        # a program that does not wait for us goes on while its models settle: the memory is read at its word
        program.wait_for(contender.loaded)
        if contender.over:
            time.sleep(options.settle_s)
        idle = process_memory(program.pid, "RssAnon")
        _announce(contender.name, idle, options)
        with Sampler(memory=lambda: process_memory(program.pid, "RssAnon"), steps=clock) as sampler:
            program.go_on()
            held = None
            if contender.over:
                program.wait_for(contender.over)
                time.sleep(options.settle_s)
                held = process_memory(program.pid, "RssAnon") - idle
                program.go_on()
            program.wait()
        return Measured(contender.name, contender.batch, *clock.per_step(), idle, sampler.peak["memory"] - idle, held)


def _announce(name: str, idle: float, options: argparse.Namespace) -> None:
    print(f"{name}: loaded and idle at {idle / 1e9:.2f} GB; training {options.steps} steps", flush=True)


def _speeds(entry: Mapping[str, Any]) -> tuple[float | None, float | None]:
    texts = [text for output in entry["outputs"].values() for text in output.get("text", ())]
    found = SPEED.search("\n".join(map(str, texts)))
    return (float(found[1]), float(found[2])) if found else (None, None)


def over_rounds(rounds: Sequence[Measured]) -> Measured:
    """What several rounds of one trainer come to: the median of the times, the most of the memory."""
    held = [m.held for m in rounds if m.held is not None]
    return replace(
        rounds[0],
        seconds=statistics.median(m.seconds for m in rounds),
        cpu=statistics.median(m.cpu for m in rounds),
        added=max(m.added for m in rounds),
        held=max(held, default=None),
    )


def rounds_line(rounds: Sequence[Mapping[str, Measured]]) -> str:
    """The ratio of the times in each round in which both trainers were measured."""
    both = [(each["ours"].seconds, each["host"].seconds) for each in rounds if {"host", "ours"} <= each.keys()]
    told = "; ".join(f"{ours:.3g} / {host:.3g} = {ours / host:.2f}" for ours, host in both)
    return f"Seconds a step, ours / host's, round by round: {told or 'none with both'}"


def cpu_report(results: Mapping[str, Measured], *, with_aims: bool) -> str:
    """The table, with the ratios where ComfyUI's trainer and ours both ran."""
    rows = [("trainer", "seconds a step", "CPU seconds", "memory added", "still held after")]
    for m in results.values():
        rows.append((m.name, f"{m.seconds:.3g}", f"{m.cpu:.3g}", _gb(m.added), _gb(m.held)))
    if {"host", "ours"} <= results.keys():
        host, ours = results["host"], results["ours"]
        times = f"{ours.seconds / host.seconds:.2f}", f"{ours.cpu / max(host.cpu, 1e-9):.2f}"
        held = _ratio(ours.held or 0, host.held or 0)
        rows.append(("ours / host's", *times, _ratio(ours.added, host.added), held))
    if with_aims:
        rows.append(("aim, at most", f"{BAR_TIME:g}", "", f"{BAR_ADDED:g}", f"{BAR_HELD_GB:g} GB"))
    return table(rows)


def cuda_report(results: Mapping[str, Measured]) -> str:
    """The table of a GPU: speed beside the device's own, and the memory of the device in all."""
    heads = ("ms a step", "images/s", "TFLOP/s", "share of peak", "peak memory", "memory added", "still held", "aim")
    rows = [("trainer", *heads)]
    for name, m in results.items():
        share = f"{m.tflops / m.best:.0%}" if m.tflops and m.best else ""
        speed = (f"{m.seconds * 1e3:.1f}", f"{m.batch / m.seconds:.2f}", f"{m.tflops:.3g}" if m.tflops else "", share)
        memory = (_gb(m.idle + m.added), _gb(m.added), _gb(m.held))
        rows.append((m.name, *speed, *memory, CUDA_AIMS.get(name, "")))
    return table(rows)


def _gb(count: float | None) -> str:
    return "" if count is None else f"{count / 1e9:.2f} GB"


def _ratio(ours: float, hosts: float) -> str:
    # what one of them gave back, or never took, has no ratio
    return f"{ours / hosts:.2f}" if hosts > 0 and ours > 0 else ""


def chosen(options: argparse.Namespace) -> dict[str, NodeTrainer | ProgramTrainer]:
    """The rows that are asked for, in the order of the table.

    Raises:
        dev.Failure: a name that there is not, or sd-scripts' program is missing.
    """
    every = contenders(options.device)
    if options.sd_scripts is not None:
        program = options.sd_scripts / "sdxl_train_network.py"
        if not program.is_file():
            raise dev.Failure(f"There is no '{program}'; name a checkout of kohya-ss/sd-scripts.")
        tokenizer = tokenizer_folder(setup().comfyui)
        every["sd-scripts"] = sd_scripts(options.sd_scripts, options.sd_scripts_python, tokenizer)
    names = options.rows or (("host", "ours") if options.quick else tuple(every))
    if unknown := [name for name in names if name not in every]:
        raise dev.Failure(f"There is no row '{unknown[0]}' here; choose of {', '.join(every)}.")
    return {name: every[name] for name in every if name in names}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="dev.py bench train", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--size", type=int, help="side of the training images in pixels (256; cuda: 1024; quick: 128)")
    parser.add_argument("--steps", type=int, help="optimizer steps of each (12; cuda: 100; quick: 50)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--checkpoint", type=Path, help="an SDXL checkpoint; without it, random weights are made")
    parser.add_argument("--quick", action="store_true", help="on the tiny SDXL: a smoke test, no measurement")
    parser.add_argument("--rounds", type=int, default=1, help="how often all rows are measured, in turns; on a CPU (1)")
    parser.add_argument("--rows", nargs="+", metavar="NAME", help="only these; all of the device's without it")
    parser.add_argument("--sd-scripts", type=Path, metavar="FOLDER", help="a checkout of kohya-ss/sd-scripts")
    parser.add_argument("--sd-scripts-python", type=Path, metavar="PYTHON", default=Path(sys.executable))
    options = parser.parse_args()
    on_gpu = options.device == "cuda"
    if options.rounds < 1 or (on_gpu and options.rounds > 1):
        parser.error("--rounds is 1 or more, and 1 on a GPU, where one process holds all rows.")
    options.size = options.size or (128 if options.quick else 1024 if on_gpu else 256)
    # Mjesec's progress comes every two seconds, and tiny steps must last as long for two lines of it
    options.steps = options.steps or (100 if on_gpu else 50 if options.quick else 12)
    options.settle_s = QUICK_SETTLE_S if options.quick else SETTLE_S
    return options


def program() -> int:
    options = parse()
    rows = chosen(options)
    cache = setup().cache
    if options.quick:
        checkpoint = dev.need(dev.TINY_SDXL)
    else:
        checkpoint = full_size_checkpoint(options.checkpoint, cache)
        check_room(Path(tempfile.gettempdir()), FULL_MEMORY_GB, FULL_DISK_GB)
    rounds: list[dict[str, Measured]] = []
    failed = 0
    with measuring(checkpoint, options) as measure:
        for _ in range(options.rounds):
            rounds.append({})
            for name, contender in rows.items():
                try:
                    rounds[-1][name] = measure(contender)
                except dev.Failure as failure:
                    # what was measured before, in minutes, is worth its table
                    print(f"benchmark: {contender.name}: {failure}", file=sys.stderr, flush=True)
                    failed += 1
    measured = {name: [each[name] for each in rounds if name in each] for name in rows}
    results = {name: over_rounds(many) for name, many in measured.items() if many}
    what = "tiny SDXL (smoke test)" if options.quick else "SDXL"
    print(f"\n{machine()}, {options.device}")
    turns = f", {options.rounds} rounds" * (options.rounds > 1)
    print(f"{what}, {options.size}x{options.size}, rank {RANK}, {options.steps} steps{turns}\n")
    full = not options.quick
    print(cuda_report(results) if options.device == "cuda" else cpu_report(results, with_aims=full))
    if options.rounds > 1 and {"host", "ours"} <= results.keys():
        print("\n" + rounds_line(rounds))
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(program))
