"""The checks of the extension in web/: types, lint and unit tests, by modules that npm installs in the cache."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
import time
from collections.abc import Sequence
from pathlib import Path

from .base import ROOT, Failure, say
from .cache import is_whole, key_of, locked, remove, sizes_of, write_stamp
from .processes import clean_environment, look_for_faults, run_step

# what the extension's checks are made of, and how each is started, below node_modules
NPM_FILES = ("package.json", "package-lock.json", ".npmrc")
WEB_CHECKS = {
    "tsc": ["typescript/bin/tsc", "-p", "."],
    "eslint": ["eslint/bin/eslint.js", "--max-warnings", "0", "."],
    "vitest": ["vitest/vitest.mjs", "run", "--reporter=dot"],
}
STAMP = "mjesec-modules.json"


def npm_key(root: Path, node: str) -> str:
    """16 hexadecimal digits that change with what is installed and with the Node.js that it is installed for."""
    return key_of(*((root / name).read_text(encoding="utf-8") for name in NPM_FILES), node, sysconfig.get_platform())


def node_modules(cache: Path, npm: str, node: str, offline: bool) -> Path | None:
    """The folder with what package-lock.json names, made now if it is missing or broken; None if it may not be."""
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout.strip()
    key = npm_key(ROOT, version)
    folder = cache / "npm" / key
    with locked(cache / "lock"):
        if is_whole(folder / STAMP, key):
            return folder / "node_modules"
        if offline:
            return None
        remove(folder)
        folder.mkdir(parents=True)
        for name in NPM_FILES:
            shutil.copyfile(ROOT / name, folder / name)
        run_step(
            "installing the extension's checks (tsc, eslint, vitest)",
            [npm, "ci", "--ignore-scripts", "--prefix", folder],
            "Check the network, npm's configuration and that Node.js is 18 or newer, and try again.",
            cache / "log" / "npm.log",
        )
        write_stamp(folder / STAMP, key, sizes_of(folder.glob("node_modules/**/package.json"), folder))
    return folder / "node_modules"


def check_web(cache: Path, offline: bool, tests: Sequence[str] = ()) -> None:
    """Types, lint and unit tests of web/, all or `tests`. Without npm it says so; where that is required it fails."""
    npm, node = shutil.which("npm"), shutil.which("node")
    modules = node_modules(cache, npm, node, offline) if npm and node else None
    if modules is None or node is None:
        missing = "npm is missing (Debian: apt install npm)"
        if npm and node:
            missing = f"--offline: the cache '{cache}' holds no modules for them"
        if os.environ.get("MJESEC_NPM_REQUIRED"):
            raise Failure(f"tsc, eslint and vitest are required here, but {missing}.")
        say(f"tsc, eslint and vitest are skipped: {missing}")
        return
    # vitest would offer to install what it finds only where it itself lies
    environment = {**clean_environment(), "VITEST_SKIP_INSTALL_CHECKS": "1"}
    began = time.monotonic()
    for name, (program, *arguments) in WEB_CHECKS.items():
        chosen = tests if name == "vitest" else ()
        command = [node, modules / program, *arguments, *chosen]
        look_for_faults(name, command, environment, found=(1, 2) if name == "tsc" else (1,))
    say(f"{', '.join(WEB_CHECKS)}: {time.monotonic() - began:.1f} s")
