"""The Python environment that runs the host and the tests: what it is made of, and the one that lies in the cache."""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .base import ROOT, Failure, say
from .cache import cache_folder, has_sizes, is_whole, key_of, locked, remove, sizes_of, write_stamp
from .comfyui import local_comfyui, registry_comfyui
from .interpreters import make_venv, missing_modules, runs, venv_python
from .processes import BYTECODE, run_step

# to the last digit: torchaudio 2.11.1 cannot be imported beside torch 2.11.0, nor any of them beside a torch built for
# another CUDA, and transformers, so peft too, imports it wherever ComfyUI's requirements put it
DEFAULT_TORCH = "torch==2.11.0 torchvision==0.26.0 torchaudio==2.11.0"
# what its files on PyPI are for: the oldest and the newest Python, and the processors of each system
TORCH_PYTHONS = ((3, 10), (3, 14))
TORCH_MACHINES = {"linux": ("x86_64", "aarch64"), "darwin": ("arm64",), "win32": ("AMD64",)}
# without bitsandbytes, which peft and diffusers import wherever it is: 3 s in each of the tests' many processes
DEV_TOOLS = ("pytest>=8,<10", "ruff==0.17.6", "playwright>=1.50,<2", "pytest-xdist>=3.6,<4", "tensorboard>=2.16,<3")
HOST_MODULES = (
    "torch", "torchvision", "aiohttp", "safetensors", "transformers", "diffusers", "peft", "accelerate",
    "matplotlib", "PIL", "blake3",
)  # fmt: skip
TEST_MODULES = ("pytest", "ruff", "xdist")
# what pip calls the modules that have another name there
PACKAGES = {"PIL": "Pillow", "xdist": "pytest-xdist"}
# imported once when an environment is made, and looked for each time it is used
KEY_MODULES = HOST_MODULES + TEST_MODULES
COMPILED = re.compile(r"\.(so(\.\d+)*|pyd|dll|dylib)$")
STAMP = "mjesec-environment.json"


def environment_key(host_requirements: str, our_requirements: str, torch: str, tools: Sequence[str] = DEV_TOOLS) -> str:
    """16 hexadecimal digits that change with whatever an environment is made of."""
    version = f"{platform.python_implementation()} {sys.version_info.major}.{sys.version_info.minor}"
    system = sysconfig.get_platform()
    return key_of(version, system, host_requirements, our_requirements, torch, *tools, *KEY_MODULES)


def installed_files(folder: Path) -> dict[str, int]:
    """Sizes of what shows whether an environment is whole: metadata, the key modules, and all that is compiled."""
    roots = [root for root in folder.glob("[lL]ib*") if not root.is_symlink()]  # lib64 is a link to lib
    layouts = ("python*/site-packages", "site-packages")
    libraries = [library for root in roots for layout in layouts for library in root.glob(layout)]
    found = [path for library in libraries for path in library.glob("*.dist-info/METADATA")]
    found += [path for library in libraries for name in KEY_MODULES for path in library.glob(f"{name}/__init__.py")]
    found += [path for library in libraries for path in library.rglob("*") if COMPILED.search(path.name)]
    return sizes_of(filter(Path.is_file, found), folder)


def environment_is_whole(folder: Path, key: str) -> bool:
    return is_whole(folder / STAMP, key) and runs(venv_python(folder), "pass")


def cached_python(cache: Path, comfyui: Path, offline: bool, environ: Mapping[str, str]) -> Path:
    """The interpreter of the environment for this host, made now if it is missing or broken.

    Raises Failure if it may not be made, or cannot.
    """
    host_list, our_list = comfyui / "requirements.txt", ROOT / "requirements.txt"
    torch = environ.get("MJESEC_TORCH") or DEFAULT_TORCH
    key = environment_key(host_list.read_text(encoding="utf-8"), our_list.read_text(encoding="utf-8"), torch)
    folder = cache / "env" / key
    if environment_is_whole(folder, key):
        if not has_sizes(folder / STAMP):
            write_stamp(folder / STAMP, key, installed_files(folder))
        return venv_python(folder)
    if offline:
        raise Failure(
            f"--offline: the cache '{cache}' holds no whole environment for these requirements; "
            "run once without --offline, or name an interpreter in MJESEC_PYTHON."
        )
    if not environ.get("MJESEC_TORCH"):
        check_torch_exists(sys.version_info[:2], sys.platform, platform.machine())
    if folder.exists():
        say(f"the environment in {folder} is half-made or broken; making it anew")
    build_environment(folder, [*shlex.split(torch), "-r", str(host_list), "-r", str(our_list)], cache / "log")
    write_stamp(folder / STAMP, key, installed_files(folder))
    return venv_python(folder)


def check_torch_exists(version: tuple[int, int], system: str, machine: str) -> None:
    """Raises Failure where DEFAULT_TORCH has no files, of which pip would only say that it finds none."""
    oldest, newest = TORCH_PYTHONS
    if oldest <= version <= newest and machine in TORCH_MACHINES.get(system, ()):
        return
    here, first, last = ("{}.{}".format(*numbers) for numbers in (version, oldest, newest))
    raise Failure(
        f"{DEFAULT_TORCH.split()[0]} does not exist for Python {here} on {system} ({machine}), only for Python {first} "
        f"to {last} on Linux (x86_64, aarch64), macOS (arm64) and Windows (AMD64); start dev.py with such a Python, "
        "name one that has all libraries in MJESEC_PYTHON, or a torch that exists there in MJESEC_TORCH."
    )


def build_environment(folder: Path, wanted: Sequence[str], logs: Path) -> None:
    """Makes the environment where it stays (they cannot be moved); the stamp is written after this."""
    remove(folder)
    # what was compiled for another may be damaged too: this is what a user is told to do then
    shutil.rmtree(folder.parent.parent / BYTECODE, ignore_errors=True)
    make_venv(folder, logs / "venv.log")
    # one call for everything, so that torch, torchvision and torchaudio are chosen to fit each other; what is imported
    # is compiled then, and not all of it now
    pip = [venv_python(folder), "-m", "pip", "install", "--no-input", "--progress-bar", "off", "--no-compile"]
    run_step(
        "installing PyTorch, ComfyUI's requirements and ours (several GB, some minutes)",
        [*pip, *wanted, *DEV_TOOLS],
        "Check the network, pip's configuration and the disk (8 GB are needed) and try again.",
        logs / "install.log",
    )
    run_step(
        "trying the environment",
        [venv_python(folder), "-c", f"import {', '.join(KEY_MODULES)}"],
        "The libraries do not fit each other; name a torch and torchvision that do in MJESEC_TORCH.",
        logs / "import.log",
    )


@dataclass(frozen=True)
class Setup:
    """A ComfyUI, the interpreter that runs it, and the cache folder in which the demo keeps its files."""

    comfyui: Path
    python: Path
    cache: Path

    @property
    def environment(self) -> Path | None:
        """The environment in the cache that the interpreter belongs to; None for an interpreter from elsewhere."""
        folder = self.python.parent.parent
        return folder if folder.parent == self.cache / "env" else None


def prepare(offline: bool, tests: bool = False, environ: Mapping[str, str] = os.environ) -> Setup:
    """Finds or makes the host and its environment, with `tests` one that runs them.

    A second call takes well under a second. Raises Failure if one of them is named wrongly, too old, or cannot be made.
    """
    cache = cache_folder(environ)
    cache.mkdir(parents=True, exist_ok=True)
    with locked(cache / "lock"):
        comfyui = local_comfyui(ROOT, environ) or registry_comfyui(cache, offline)
        named = environ.get("MJESEC_PYTHON")
        if not named:
            return Setup(comfyui, cached_python(cache, comfyui, offline, environ), cache)
    return Setup(comfyui, named_python(named, KEY_MODULES if tests else HOST_MODULES), cache)


def named_python(named: str, modules: Sequence[str]) -> Path:
    """The interpreter that MJESEC_PYTHON names. Raises Failure if it does not run or has not all the modules."""
    python = Path(shutil.which(named) or named).absolute()
    missing = missing_modules(python, modules)
    if missing is None:
        raise Failure(f"MJESEC_PYTHON names '{named}', which does not run; name a Python, or unset it.")
    if missing:
        packages = ", ".join(PACKAGES.get(name, name) for name in missing)
        raise Failure(f"MJESEC_PYTHON names '{named}', which has no {packages}; install that there, or unset it.")
    return python
