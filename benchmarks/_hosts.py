"""What the benchmarks share: a host on a base folder of its own, its memory, and the full-size checkpoint."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import _pack  # noqa: F401 - makes `pack` and `dev` importable

import dev

CHECKPOINT = "sdxl_random.safetensors"
BF16 = ("--bf16-unet", "--bf16-text-enc")
Graph = dict[str, dict[str, Any]]


def setup() -> dev.Setup:
    """The host that dev.py resolved, run by this interpreter.

    Raises:
        dev.Failure: there is no ComfyUI.
    """
    comfyui = dev.local_comfyui(dev.ROOT, os.environ)
    if comfyui is None:
        raise dev.Failure("The benchmarks need a ComfyUI: start them with `python dev.py bench`, or set COMFYUI_PATH.")
    return dev.Setup(comfyui, Path(sys.executable), dev.cache_folder(os.environ))


def full_size_checkpoint(given: Path | None, cache: Path) -> Path:
    """The checkpoint to run on: the given file, else one with random weights in the cache, made if it is not there."""
    if given is not None:
        if not given.is_file():
            raise dev.Failure(f"There is no checkpoint '{given}'; `benchmarks/make_checkpoint.py {given}` makes one.")
        return given.absolute()
    path = cache / "benchmarks" / CHECKPOINT
    if not path.exists():
        from make_checkpoint import make_checkpoint

        print(f"Making {path} (6.9 GB, about a minute; it is kept, delete it when you are done) ...", flush=True)
        try:
            make_checkpoint(path)
        except OSError as error:
            raise dev.Failure(str(error)) from error
    return path


def check_room(folder: Path, memory_gb: float, disk_gb: float) -> None:
    """Raises dev.Failure with one sentence if memory or disk is short."""
    available = meminfo("MemAvailable")
    if available < memory_gb * 1e9:
        raise dev.Failure(
            f"{available / 1e9:.1f} GB of memory are available, {memory_gb:g} are needed; close other programs."
        )
    free = shutil.disk_usage(folder).free
    if free < disk_gb * 1e9:
        raise dev.Failure(f"'{folder}' has {free / 1e9:.1f} GB free, {disk_gb:g} are needed; make room or set TMPDIR.")


@contextlib.contextmanager
def host_with(checkpoint: Path, size: int, images: int, arguments: tuple[str, ...]) -> Iterator[dev.HostProcess]:
    """A host on a temporary base folder with the checkpoint and with Moons in ``input/moon``; all is removed after.

    Raises:
        dev.Failure: it does not start, or this system does not tell a process's anonymous memory.
    """
    if sys.platform != "linux":
        raise dev.Failure("This benchmark reads memory from /proc; run it on Linux.")
    from pack.trainer.moons.folder import render_moons

    with tempfile.TemporaryDirectory(prefix="mjesec-bench-") as folder:
        base = Path(folder)
        render_moons(base / "input" / "moon", images, size, seed=1)
        for caption in (base / "input" / "moon").glob("*.txt"):
            # one caption for all, the workflow's: what is measured are steps, not the encoding of texts
            caption.unlink()
        place = base / "models" / "checkpoints" / checkpoint.name
        place.parent.mkdir(parents=True)
        # a link costs no room
        place.symlink_to(checkpoint)
        with dev.HostProcess(setup(), base, base / "comfyui.log", arguments) as host:
            dev.check_loaded(host)
            yield host


def run(host: dev.HostProcess, graph: Graph) -> dict[str, Any]:
    """Queue a graph, completed with the host's defaults, and wait for its end.

    Raises:
        dev.Failure: the host refused it, failed on it or died.
    """
    entry = host.wait(host.queue(with_defaults(host, graph)))
    if failure := dev.failure_of(entry):
        raise dev.Failure(f"{failure}; the host's log ends:\n{dev.tail(host.log, 30)}")
    return entry


def node(kind: str, /, **inputs: Any) -> dict[str, Any]:
    """One node of an API-format graph."""
    return {"class_type": kind, "inputs": inputs}


def with_defaults(host: dev.HostProcess, graph: Graph) -> Graph:
    """The graph with every widget that it leaves open at the default that the host names."""
    filled = {}
    for name, each in graph.items():
        kind = each["class_type"]
        described = json.loads(host.request(f"/object_info/{kind}"))[kind]["input"]
        widgets = {**described.get("required", {}), **described.get("optional", {})}
        defaults = {key: value for key, spec in widgets.items() if (value := _default(spec)) is not None}
        filled[name] = node(kind, **(defaults | each["inputs"]))
    return filled


def _default(spec: list[Any]) -> Any:
    kind, options = spec[0], spec[1] if len(spec) > 1 else {}
    choices = kind if isinstance(kind, list) else options.get("options")
    return options.get("default", choices[0] if choices else None)


def meminfo(field: str) -> int:
    """A field of /proc/meminfo in bytes."""
    return _field(Path("/proc/meminfo"), field)


def process_memory(pid: int, field: str) -> int:
    """A field of /proc/PID/status in bytes: RssAnon, VmRSS, VmHWM (the peak of VmRSS)."""
    return _field(Path(f"/proc/{pid}/status"), field)


def cpu_seconds(pid: int) -> float:
    """Processor time that all threads of a process have used so far; 0 once it is gone."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _field(path: Path, field: str) -> int:
    for line in path.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise ValueError(f"'{path}' has no field '{field}'.")


def device_memory(host: dev.HostProcess) -> int:
    """Bytes taken on the host's GPU by all processes, the caching allocator's reserve included."""
    device = json.loads(host.request("/system_stats"))["devices"][0]
    return int(device["vram_total"] - (device["vram_free"] - device["torch_vram_free"]))


class Sampler:
    """Calls functions at a steady rate while the context is open; ``peak`` holds the largest answer of each."""

    def __init__(self, *, hertz: float = 20, **readings: Callable[[], float]) -> None:
        self.peak: dict[str, float] = dict.fromkeys(readings, 0.0)
        self._readings, self._pause = readings, 1 / hertz
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            last = self._done.is_set()
            for name, read in self._readings.items():
                # a host that is busy or gone answers nothing; the prompt's own error says why
                with contextlib.suppress(OSError, ValueError):
                    self.peak[name] = max(self.peak[name], read())
            if last:
                return
            self._done.wait(self._pause)


def machine() -> str:
    """The hardware and the versions of this run, for the head of a table."""
    import torch

    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                cpu = line.partition(":")[2].strip()
                break
        else:
            cpu = platform.machine()
    gpu = f", {torch.cuda.get_device_name(0)}" if torch.cuda.is_available() else ""
    memory = f"{meminfo('MemTotal') / 1e9:.0f} GB"
    return f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} x {cpu}, {memory}{gpu}, torch {torch.__version__}"


def table(rows: list[tuple[str, ...]]) -> str:
    """A Markdown table; the first row is its head."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


def complaints(log: str, words: tuple[str, ...] = ("IMPORT FAILED", "lora key not loaded")) -> list[str]:
    return [line for line in log.splitlines() if any(word in line for word in words)]


def main(program: Callable[[], int]) -> int:
    """Runs a benchmark; what it cannot do becomes one sentence and the exit code 1."""
    try:
        return program()
    except (dev.Failure, dev.PromptFailure) as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
