"""Everything a newcomer or a developer does with Mjesec, with nothing but Python's standard library.

    python dev.py demo [--once] [--port N]   set up, start ComfyUI, run the quickstart, show its files
    python dev.py test [pytest arguments]    ruff, tsc, eslint and vitest, then the tests, against a real ComfyUI
    python dev.py host [ComfyUI arguments]   ComfyUI with the plugin, in the foreground, on CUDA or else the CPU
    python dev.py bench NAME [arguments]     one of the programs in benchmarks/

`--offline` keeps to what the cache holds. The environment and, where no ComfyUI is around, ComfyUI itself
are kept outside the checkout and keyed by what they are made of. Environment variables: COMFYUI_PATH (the
ComfyUI to use), MJESEC_PYTHON (the interpreter to use instead of our own environment), MJESEC_CACHE (where
the cache lies), MJESEC_TORCH (what pip is asked for instead of torch, torchvision and torchaudio as named in
devtools/environment.py, e.g. "torch==2.11.0 torchvision==0.26.0 torchaudio==2.11.0 --index-url
https://download.pytorch.org/whl/cpu").
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import time
from collections.abc import Callable, Sequence

from .base import Failure, say
from .commands import bench, host, test
from .demo import demo
from .environment import Setup, prepare
from .host import LAST_PORT

COMMANDS: dict[str, Callable[[Setup, argparse.Namespace], int]] = {
    "demo": demo, "test": test, "host": host, "bench": bench,
}  # fmt: skip


def port_number(text: str) -> int:
    """Raises ArgumentTypeError for what is no port."""
    if not text.isdecimal() or not 1 <= int(text) <= LAST_PORT:
        raise argparse.ArgumentTypeError(f"'{text}' is no port; choose one from 1 to {LAST_PORT}")
    return int(text)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command and its options; for test, host and bench, `rest` holds the arguments to pass on."""
    parser = argparse.ArgumentParser(
        prog="dev.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="demo|test|host|bench")
    for name, function in COMMANDS.items():
        command = commands.add_parser(name, help=(function.__doc__ or "").split("\n")[0], allow_abbrev=False)
        command.add_argument("--offline", action="store_true", help="use only what the cache holds")
        if name in ("demo", "host"):
            told = "port on 127.0.0.1 (default: 8188 or the next that is free)"
            command.add_argument("--port", type=port_number, help=told)
    commands.choices["demo"].add_argument("--once", action="store_true", help="exit after the run")
    commands.choices["bench"].add_argument("name", metavar="NAME", help="the program benchmarks/NAME.py")
    options, rest = parser.parse_known_args(arguments)
    if options.command == "demo" and rest:
        parser.error(f"demo does not know {' '.join(rest)}")
    options.rest = [argument for argument in rest if argument != "--"]
    return options


def main(arguments: Sequence[str]) -> int:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    # told to end, we still end what we started
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda *_: sys.exit(143))
    options = parse(arguments)
    try:
        began = time.monotonic()
        setup = prepare(options.offline, tests=options.command == "test")
        say(f"set-up: {time.monotonic() - began:.1f} s")
        return COMMANDS[options.command](setup, options)
    except Failure as failure:
        print(f"dev.py: {failure}", file=sys.stderr)
    except OSError as error:
        print(f"dev.py: {error}; see that the disk has room and that you may write there.", file=sys.stderr)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 0 if options.command in ("demo", "host") else 130
    return 1
