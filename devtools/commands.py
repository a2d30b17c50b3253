"""The commands `host`, `test` and `bench`."""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from .base import ROOT, Failure, say
from .environment import Setup
from .host import FIRST_PORT, free_port, host_command, temp_folder
from .interpreters import compute_in_one_thread, device_arguments
from .processes import BYTECODE, ProcessTree, clean_environment, forward, look_for_faults
from .web_checks import check_web

# each may hold a ComfyUI of its own, of 2 GB
MOST_TEST_WORKERS = 4


def host(setup: Setup, options: argparse.Namespace) -> int:
    """Runs the host in the foreground until it ends or is stopped; returns its exit code."""
    base = setup.cache / "base"
    port = free_port(FIRST_PORT) if options.port is None else options.port
    device = [] if "--cpu" in options.rest else device_arguments(setup.python)
    tree = ProcessTree(host_command(setup, base, port, [*device, *options.rest]))
    try:
        while tree.process.poll() is None:
            time.sleep(0.2)
        return int(tree.process.returncode)
    finally:
        tree.stop()
        shutil.rmtree(temp_folder(base, port), ignore_errors=True)


def test(setup: Setup, options: argparse.Namespace) -> int:
    """ruff, the checks of web/, then pytest over everything that its configuration names.

    With arguments, only the tests that they name; those in tests/web are vitest's.
    """
    compute_in_one_thread()
    environment = {**clean_environment(), "COMFYUI_PATH": str(setup.comfyui)}
    began = time.monotonic()
    look_for_faults("ruff", [setup.python, "-m", "ruff", "check", "."], environment)
    say(f"ruff: {time.monotonic() - began:.1f} s; ComfyUI: {setup.comfyui}")
    web = [argument for argument in options.rest if argument.startswith("tests/web")]
    if web or not options.rest:
        check_web(setup.cache, options.offline, web)
    if web and len(web) == len(options.rest):
        return 0
    options.rest = [argument for argument in options.rest if argument not in web]
    # unlike -m pytest, this leaves the checkout off sys.path, where our nodes/ would hide the host's nodes.py
    start = "import sys; sys.path[:] = filter(None, sys.path); import pytest; sys.exit(pytest.main())"
    try:
        return forward([setup.python, "-c", start, *in_parallel(options.rest)], environment)
    finally:
        # of the programs that the tests made
        temporary = Path(tempfile.gettempdir()).absolute()
        shutil.rmtree(setup.cache / BYTECODE / Path(*temporary.parts[1:]), ignore_errors=True)


def in_parallel(arguments: Sequence[str]) -> list[str]:
    """The arguments for pytest: the whole suite is spread over the processors, file by file, a part of it is not."""
    workers = min(os.cpu_count() or 1, MOST_TEST_WORKERS)
    if arguments or workers < 2:
        return list(arguments)
    # in the order of their folders, of which the first take longest: else the last files would keep one worker busy
    return ["-n", str(workers), "--dist", "loadfile", "--no-loadscope-reorder"]


def bench(setup: Setup, options: argparse.Namespace) -> int:
    """Runs benchmarks/NAME.py with COMFYUI_PATH set."""
    programs = sorted(path.stem for path in (ROOT / "benchmarks").glob("[!_]*.py"))
    if options.name not in programs:
        choices = ", ".join(programs) or "there is none yet"
        raise Failure(f"There is no benchmark '{options.name}'; choose one of: {choices}.")
    environment = {**clean_environment(), "COMFYUI_PATH": str(setup.comfyui)}
    return forward([setup.python, ROOT / "benchmarks" / f"{options.name}.py", *options.rest], environment)
