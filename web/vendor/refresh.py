"""Fetches the libraries of this folder anew, at pinned versions whose bytes are known.

    python web/vendor/refresh.py

It needs npm, writes the files beside itself, and is for whoever maintains the plugin: what it writes is committed,
and nobody else runs it. Modules end in .mjs, for ComfyUI starts every .js file below web/ as an extension.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Package:
    """name, version: as npm knows it. sha512: of its archive, base64, npm's own form. files: in it → here."""

    name: str
    version: str
    sha512: str
    files: dict[str, str]


PACKAGES = (
    Package(
        "uplot",
        "1.6.32",
        "KIMVnG68zvu5XXUbC4LQEPnhwOxBuLyW1AHtpm6IKTXImkbLgkMy+jabjLgSLMasNuGGzQm/ep3tOkyTxpiQIw==",
        {"dist/uPlot.esm.js": "uplot.mjs", "dist/uPlot.min.css": "uplot.css", "LICENSE": "uplot.LICENSE"},
    ),
)


def refresh(package: Package, npm: str, scratch: Path) -> None:
    """Write a package's files here, or raise ValueError if its archive is not the one that is pinned."""
    wanted = f"{package.name}@{package.version}"
    command = [npm, "pack", wanted, "--silent", "--pack-destination", str(scratch)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - npm, with our own arguments
    archive = next(scratch.glob(f"{package.name}-*.tgz"))
    found = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if found != package.sha512:
        raise ValueError(f"The archive of {wanted} has the SHA-512 {found}, not {package.sha512}; nothing was written.")
    with tarfile.open(archive) as files:
        for inside, name in package.files.items():
            file = files.extractfile(f"package/{inside}")
            if file is None:
                raise ValueError(f"The archive of {wanted} holds no '{inside}'.")
            (FOLDER / name).write_bytes(file.read())


def main() -> int:
    npm = shutil.which("npm")
    if npm is None:
        print("npm is missing; install Node.js.", file=sys.stderr)
        return 1
    for package in PACKAGES:
        with tempfile.TemporaryDirectory() as scratch:
            refresh(package, npm, Path(scratch))
        print(f"{package.name} {package.version}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
