"""What a training borrows it gives back, however it ends: the host's memory, and the pixels that it draws."""

from __future__ import annotations

import contextlib
import itertools
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from host_graphs import node, picture, training
from host_server import Host
from PIL import Image

import dev

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
MOST = 1.02
SEEDS = itertools.count(51)


def process_of(host: Host) -> Path:
    """The /proc folder of ComfyUI's own process, the one that holds the most memory of its group."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            group = int(status.with_name("stat").read_text().rpartition(")")[2].split()[2])
            if group == host.pid:
                found.append((kilobytes(status.parent, "VmRSS"), status.parent))
    return max(found)[1]


def kilobytes(process: Path, field: str) -> int:
    match = re.search(rf"^{field}:\s+(\d+) kB", (process / "status").read_text(), re.MULTILINE)
    return int(match[1]) if match else 0


def pixels(host: Host) -> bytes:
    graph = picture()
    for name in ("yes", "no", "sample"):
        graph[name]["inputs"]["asked_at"] = time.monotonic_ns()
    (path,) = host.outputs(host.run(graph))
    return Image.open(path).tobytes()


def settled(host: Host) -> tuple[bytes, int]:
    """What a plain graph draws, and the anonymous memory once the host holds its model and nothing else."""
    host.free()
    time.sleep(1.5)  # the host looks at the wish once a second
    drawn = pixels(host)
    return drawn, kilobytes(process_of(host), "RssAnon")


def finish(host: Host, name: str) -> None:
    host.run(training(output_name=name, steps=3))


def run_at_work(host: Host, name: str) -> str:
    """The id of a run that is training and has taken its first step.

    One of the same settings that ended before has steps too, and shows them until its training goes on.
    """
    ends = time.monotonic() + 60
    while True:
        for run in host.get("/mjesec/runs")["runs"]:
            if run["name"] == name and run["step"] and run["state"] == "training":
                return str(run["id"])
        host.check_alive()
        assert time.monotonic() < ends, f"'{name}' does not train; there are {host.get('/mjesec/runs')['runs']}"
        time.sleep(0.05)


def cancel(host: Host, name: str) -> None:
    prompt = host.queue(training(output_name=name, steps=2000))
    run_at_work(host, name)
    host.interrupt(prompt)
    assert "interrupted" in (dev.failure_of(host.wait(prompt, 60)) or "")


def fail(host: Host, name: str) -> None:
    """An error amid the training: the highest rate that the node takes leaves numbers that are none."""
    # a seed of its own: a run of the same settings would go on from where the one before it failed
    graph = training(output_name=name, steps=2000, unet_lr=1.0, text_lr=1.0, alpha=4096.0, seed=next(SEEDS))
    with pytest.raises(dev.PromptFailure, match="not a finite number"):
        host.run(graph)


def run_out_of_memory(host: Host, name: str) -> None:
    """The allocator itself refuses: the process may hold 60 MB more than it does, less than encoding an image takes."""
    import resource

    process = process_of(host)
    graph = training(output_name=name, batch_size=6)
    graph["data"] = node("MjesecMoonDataset", count=6, size=512, seed=1)
    graph["set"]["inputs"]["resolution"] = 512
    # the images are on disk then
    host.run({"data": graph["data"], "sheet": node("PreviewImage", images=["data", 1])})
    before = resource.prlimit(int(process.name), resource.RLIMIT_AS)
    limit = (kilobytes(process, "VmSize") + 60_000) * 1024
    resource.prlimit(int(process.name), resource.RLIMIT_AS, (limit, before[1]))
    try:
        with pytest.raises(dev.PromptFailure, match=r"There is too little memory to encode 'moon_\d+\.png': .+[^.]\.$"):
            host.run(graph)
    finally:
        resource.prlimit(int(process.name), resource.RLIMIT_AS, before)


def test_after_any_end_the_host_draws_the_same_and_its_memory_is_back(host: Host) -> None:
    # libraries, caches and pools that are filled once and stay
    finish(host, "memory warm")
    cancel(host, "memory warm too")
    fail(host, "memory warm again")
    run_out_of_memory(host, "memory warm as well")
    drawn, held = settled(host)
    ends: dict[str, Callable[[Host, str], None]] = {
        # no other test's names: a run whose name is taken gets another one
        "memory finished": finish,
        "memory cancelled": cancel,
        "memory failed": fail,
        "memory out of memory": run_out_of_memory,
    }
    grown = {}
    for name, end in ends.items():
        end(host, name)
        drawn_after, after = settled(host)
        assert drawn_after == drawn, name
        # what an allocator happens to have given back once is no leak when it is taken again
        grown[name], held = after / held, max(after, held)
    print(f"anonymous memory after each over the most before: {grown}")
    assert {name: ratio for name, ratio in grown.items() if ratio > MOST} == {}
