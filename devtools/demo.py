"""The command `demo`: the quickstart on the tiny SDXL in a real ComfyUI."""

from __future__ import annotations

import argparse
import json
import math
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .answers import failure_of, output_files
from .base import ROOT, Failure, need, say
from .environment import Setup
from .host import FIRST_PORT, HostProcess, check_loaded, free_port
from .interpreters import compute_in_one_thread, device_arguments
from .processes import plain_lines

TINY_SDXL = ROOT / "demo" / "tiny_sdxl.safetensors"
QUICKSTART = ROOT / "workflows" / "api" / "quickstart.json"
# of the base's loss on held-out Moons; ten of its 700 steps already come to less
MOST_RATIO = 0.8


class LogRelay:
    """Prints what the plugin's nodes wrote into the host's log since the last look."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._position = log.stat().st_size
        self._unfinished = b""

    def __call__(self) -> None:
        with self._log.open("rb") as file:
            file.seek(self._position)
            data = file.read()
        self._position += len(data)
        *lines, self._unfinished = re.split(rb"[\r\n]", self._unfinished + data)
        for line in plain_lines(b"\n".join(lines).decode("utf-8", errors="replace")):
            _, mark, text = line.partition("[Mjesec]")
            if mark:
                say(f"  {text.strip()}")


def trained_loras(host: HostProcess, entry: Mapping[str, Any]) -> list[Path]:
    folder = host.base / "output" / "loras"
    return [folder / name for shown in entry["outputs"].values() for name in shown.get("mjesec_lora", ())]


def show_files(host: HostProcess, entry: Mapping[str, Any]) -> None:
    output, loras = host.base / "output", trained_loras(host, entry)
    for path in loras:
        say(f"LoRA:   {path}")
    for path in output_files(entry, output):
        if path not in loras:
            say(f"figure: {path}")


def held_out_losses(lora: Path) -> tuple[float, float]:
    """The loss on held-out images of the base and with the LoRA, as its file tells; NaN where none was measured.

    A run that was finished before reports no loss, but its file still does.
    """
    with lora.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    measured = json.loads(header.get("__metadata__", {}).get("mjesec_validation", "[]"))
    return (measured[0][1], measured[-1][1]) if len(measured) > 1 else (math.nan, math.nan)


def show_held_out_loss(host: HostProcess, entry: Mapping[str, Any]) -> float:
    """Prints the loss on held-out Moons; returns the LoRA's as a share of the base's."""
    (lora,) = trained_loras(host, entry)
    base, tuned = held_out_losses(lora)
    ratio = tuned / base
    say(f"held-out loss: base {base:.5f}, with the LoRA {tuned:.5f}, ratio {ratio:.3f}")
    return ratio


def check_learning(ratio: float, log: Path) -> None:
    """Raises Failure where the LoRA lowers the loss too little, or nobody knows whether it does."""
    # in this order NaN is too much
    if not ratio <= MOST_RATIO:
        raise Failure(
            f"The quickstart's LoRA leaves {ratio:.3f} of the base's loss on held-out Moons where at most {MOST_RATIO} "
            f"shows that it learnt; look for the cause in ComfyUI's log {log} and with `python dev.py test`."
        )


def demo(setup: Setup, options: argparse.Namespace) -> int:
    """Runs the quickstart on the tiny SDXL in a real ComfyUI, then leaves the editor open."""
    need(TINY_SDXL)
    compute_in_one_thread()
    graph = json.loads(need(QUICKSTART).read_text(encoding="utf-8"))
    port = free_port(FIRST_PORT) if options.port is None else options.port
    if options.port is not None and free_port(port) != port:
        raise Failure(f"Port {port} is in use; choose another with --port, or leave the choice to dev.py.")
    log = setup.cache / "log" / f"host-{port}.log"
    say(f"starting ComfyUI (its log is {log}) ...")
    with HostProcess(setup, setup.cache / "base", log, device_arguments(setup.python), port) as host:
        check_loaded(host)
        say(f"editor: {host.url}")
        say("running the quickstart: dataset, training, base against LoRA, figure ...")
        relay = LogRelay(log)
        began = time.monotonic()
        entry = host.wait(host.queue(graph), each_poll=relay)
        relay()
        if failure := failure_of(entry):
            raise Failure(f"The quickstart did not finish: {failure} (ComfyUI's log is {log})")
        say(f"finished in {time.monotonic() - began:.0f} s")
        show_files(host, entry)
        ratio = show_held_out_loss(host, entry)
        say(f"editor: {host.url} (Templates > {ROOT.name} > quickstart opens this graph)")
        if options.once:
            say("stopping ComfyUI; without --once it would stay open")
            check_learning(ratio, log)
            return 0
        say("Press Ctrl-C to stop.")
        while True:
            time.sleep(0.5)
            relay()
            host.check_alive()
