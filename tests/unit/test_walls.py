"""Who may import whom. The walls are what lets a trainer be tested without a host, and a host start fast."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).absolute().parents[2]
HOST = {"comfy", "comfy_api", "comfy_extras", "comfy_execution", "folder_paths", "server", "execution", "nodes"}
ROOMS = ("trainer", "figures", "nodes")


def files_of(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def imports_of(path: Path) -> Iterator[tuple[str, int]]:
    """Every import in a file as (absolute name, line); a relative one is spelled from the repository's root."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module or "", node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            yield from ((".".join(("mjesec", *base, name)), node.lineno) for name in names)


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def trespasses(room: str, forbidden: set[str]) -> list[str]:
    """Imports in a room whose first words are forbidden, as 'file:line name'."""
    return [
        f"{path.relative_to(ROOT)}:{line} {name}"
        for path in files_of(room)
        for name, line in imports_of(path)
        if any(name == word or name.startswith(word + ".") for word in forbidden)
    ]


@pytest.mark.parametrize("room", ROOMS)
def test_the_rooms_have_files_to_check(room: str) -> None:
    assert len(files_of(room)) > 5


@pytest.mark.parametrize("room", ["trainer", "figures"])
def test_trainer_and_figures_know_nothing_of_the_host(room: str) -> None:
    assert trespasses(room, HOST) == []


@pytest.mark.parametrize(("room", "other"), [("trainer", "figures"), ("figures", "trainer")])
def test_trainer_and_figures_know_nothing_of_each_other_or_of_the_nodes(room: str, other: str) -> None:
    assert (
        trespasses(room, {f"mjesec.{name}" for name in (other, "nodes", "demo")} | {other, "pack", "mjesec.mjesec"})
        == []
    )


# from the ground up; beside them lie modules that all may use, and above them those that use all
FLOORS = {
    "trainer": ("moons", "dataset", "settings", "sdxl", "adapters", "training", "kohya", "lora", "runs"),
    "nodes": ("dataset", "lora", "sweep", "training", "figure"),
}
ROOFS = {"trainer": {"command_line", "__main__"}, "nodes": {"editor_routes", "__init__"}}


@pytest.mark.parametrize("house", FLOORS)
def test_no_room_imports_one_above_it(house: str) -> None:
    floors, roof = FLOORS[house], ROOFS[house]
    assert {path.name for path in (ROOT / house).iterdir() if (path / "__init__.py").is_file()} == set(floors)
    ground = {path.stem for path in (ROOT / house).glob("*.py")} - roof
    for path in files_of(house):
        room = path.parent.name
        if room == house and path.stem in roof:
            continue
        allowed = ground | set(floors[: floors.index(room) + 1] if room in floors else ())
        named = [name.split(".")[2] for name, _ in imports_of(path) if name.startswith(f"mjesec.{house}.")]
        assert set(named) <= allowed, path.relative_to(ROOT)


def test_only_the_nodes_import_the_host() -> None:
    outside = [path for path in ROOT.glob("*.py")]
    names = [(path.name, name.split(".")[0]) for path in outside for name, _ in imports_of(path)]
    assert [(path, name) for path, name in names if name in HOST] == []
    assert trespasses("nodes", HOST) != []


@pytest.mark.parametrize("room", ROOMS)
def test_nothing_of_the_plugin_knows_the_demo(room: str) -> None:
    assert trespasses(room, {"mjesec.demo", "demo", "tiny_sdxl", "sizes"}) == []
    assert [path for path in files_of(room) if "tiny_sdxl" in path.read_text("utf-8")] == []


@pytest.mark.parametrize("room", ROOMS)
def test_the_search_path_is_never_changed(room: str) -> None:
    assert [path for path in files_of(room) if "sys.path" in path.read_text("utf-8")] == []


def modules_after(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after `code`, with the plugin importable as `pack`."""
    program = (
        "import importlib.util, sys\n"
        f"sys.path[:] = [p for p in sys.path if p not in ('', {str(ROOT)!r})]\n"
        f"spec = importlib.util.spec_from_file_location('pack', {str(ROOT / '__init__.py')!r},"
        f" submodule_search_locations=[{str(ROOT)!r}])\n"
        "pack = importlib.util.module_from_spec(spec)\n"
        "sys.modules['pack'] = pack\n"
        "spec.loader.exec_module(pack)\n"
        f"{code}\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))\n"
    )
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


HEAVY = {"torch", "diffusers", "transformers", "peft", "matplotlib"}


@pytest.mark.parametrize(
    "code",
    [
        "import pack",
        "import pack.trainer",
        "import pack.figures",
        "import pack.trainer.settings.training",
        "import pack.trainer.dataset.buckets, pack.trainer.dataset.captions, pack.trainer.dataset.samples",
        "import pack.trainer.dataset.scan, pack.trainer.dataset.images",
    ],
)
def test_importing_what_describes_a_run_loads_no_heavy_library(code: str) -> None:
    assert modules_after(code) & (HEAVY | HOST) == set()


def test_the_whole_trainer_imports_where_there_is_no_host() -> None:
    names = [f"pack.{module}" for module in map(dotted, files_of("trainer")) if module != "trainer.__main__"]
    assert modules_after(f"import {', '.join(names)}") & HOST == set()
