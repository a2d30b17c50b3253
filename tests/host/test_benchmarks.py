"""The benchmarks run: on the tiny SDXL they measure nothing worth knowing, but they must not rot."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from typing import Any

import pytest
from host_server import setup_from_environment

import dev


def run_benchmark(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    setup = setup_from_environment()
    program = str(dev.ROOT / "benchmarks" / f"{name}.py")
    environment = {**os.environ, **dev.clean_environment(), "COMFYUI_PATH": str(setup.comfyui)}
    return subprocess.run(
        [str(setup.python), program, *arguments], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.skipif(sys.platform != "linux", reason="the benchmarks read memory from /proc")
def test_the_bench_trains_with_both_trainers_and_prints_one_table() -> None:
    done = run_benchmark("train", "--quick", "--rows", "host", "ours")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("|")]
    head, _, host, ours, ratio = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert head == ["trainer", "seconds a step", "CPU seconds", "memory added", "still held after"]
    assert host[0].startswith("ComfyUI's TrainLoraNode") and ours[0] == "Mjesec"
    for row in (host, ours):
        assert float(row[1]) > 0 and float(row[2]) > 0
        assert all(cell.endswith(" GB") for cell in row[3:])
    assert float(ratio[1]) == pytest.approx(float(ours[1]) / float(host[1]), rel=0.05)


def test_a_round_without_one_of_the_trainers_is_compared_with_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(dev.ROOT / "benchmarks"))
    bench = importlib.import_module("train")

    def measured(seconds: float, added: float) -> object:
        return bench.Measured("a trainer", 1, seconds, 2 * seconds, 8e9, added, None)

    rounds = [
        {"host": measured(6, 7e9), "ours": measured(3, 2e9)},
        {"ours": measured(9, 3e9)},
        {"host": measured(8, 6e9), "ours": measured(4, 1e9)},
    ]
    assert bench.rounds_line(rounds).endswith("round by round: 3 / 6 = 0.50; 4 / 8 = 0.50")
    total = bench.over_rounds([each["ours"] for each in rounds])
    assert (total.seconds, total.cpu, total.added, total.held) == (4, 8, 3e9, None)


def test_the_bench_sweeps_in_three_ways_and_sets_them_beside_the_aims() -> None:
    done = run_benchmark("sweep", "--quick")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.strip() for line in done.stdout.splitlines()]
    for way in ("plain", "exact", "fast"):
        assert any(line.startswith(way) and line.endswith("of the plain graph") for line in lines), done.stdout
    aims = [line for line in lines if "aim at most" in line]
    assert [line.split(":")[0] for line in aims] == ["exact", "fast", "fast, outside sampling and decoding"]
    assert all(line.endswith((": met", "NOT MET")) for line in aims)
    outside = float(aims[2].split(": ")[1].split(",")[0])
    assert 0 < outside < 1


def test_what_a_step_does_to_the_weights_is_timed_in_both_ways() -> None:
    done = run_benchmark("optimizer", "--rank", "1", "--rounds", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "722 layers" in done.stdout
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines() if "|" in line]
    assert rows[0] == ["", "cast", "norm", "AdamW", "together"]
    assert [row[0] for row in rows[2:]] == ["each weight in memory of its own", "joined"]
    assert all(float(cell.removesuffix(" ms")) > 0 for row in rows[2:] for cell in row[1:])


def test_the_figures_of_the_full_size_bench_are_drawn() -> None:
    done = run_benchmark("full_size", "--figures", "--quick")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "fig09_cfg_scale: " in done.stdout and "7 cells: 7 computed" in done.stdout
    assert "fig11_lora_weight: " in done.stdout and "3 cells: 3 computed" in done.stdout


def test_a_checkpoint_that_is_not_there_is_one_sentence() -> None:
    done = run_benchmark("train", "--checkpoint", "/nowhere/base.safetensors")
    assert done.returncode == 1
    assert done.stderr.startswith("benchmark: ") and "/nowhere/base.safetensors" in done.stderr
    assert "Traceback" not in done.stderr


# of the checkpoint as it would be made, its tensors and its size; of a handful of tensors, a file that is made of them
MAKE = """
import json, sys
from pathlib import Path
import make_checkpoint as m
import torch
from safetensors.torch import load_file
whole = m.entries()
size = len(m.header_of(whole)) + sum(each.nbytes for each in whole)
some = [each for each in whole if each.nbytes < 20_000][::20]
m.entries = lambda: some
path = Path(sys.argv[1])
written = m.make_checkpoint(path, seed=3)
held, generator = load_file(path), torch.Generator().manual_seed(3)
print(json.dumps({
    "names": sorted(each.name for each in whole), "size": size, "written": written, "on disk": path.stat().st_size,
    "some": [each.name for each in some], "held": sorted(held),
    "as drawn": all(torch.equal(held[each.name], each.draw(generator)) for each in some),
}))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    command = [sys.executable, "-c", MAKE, str(tmp_path_factory.mktemp("made") / "some.safetensors")]
    done = subprocess.run(command, cwd=dev.ROOT / "benchmarks", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_the_made_checkpoint_has_the_names_and_the_size_of_sdxl_base(made: dict[str, Any]) -> None:
    """sd_xl_base_1.0.safetensors: 2515 tensors, of which 1680 are the U-Net's, in 6.94 GB."""
    assert len(made["names"]) == 2515
    assert made["size"] / 1e9 == pytest.approx(6.94, abs=0.005)
    prefixes = {
        "model.diffusion_model.": 1680,
        "conditioner.embedders.0.transformer.text_model.": 197,
        "conditioner.embedders.1.model.": 390,
        "first_stage_model.": 248,
    }
    assert {p: sum(name.startswith(p) for name in made["names"]) for p in prefixes} == prefixes


def test_the_writer_makes_a_file_that_safetensors_reads(made: dict[str, Any]) -> None:
    """The writer streams; on a handful of tensors, the library must read back what was drawn."""
    assert made["written"] == made["on disk"]
    assert made["held"] == sorted(made["some"]) and len(made["held"]) > 50
    assert made["as drawn"]
