"""Encoding a dataset: resumable, told with its speed, and never stopped by one broken file."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_parts
import torch
from pack.trainer.dataset.scan import scan_folder
from pack.trainer.errors import BrokenImages
from pack.trainer.lora.file import read_metadata
from pack.trainer.runs.run import train
from tiny_parts import Log, Stop, make_job, make_settings

import dev

SHORT = make_settings(steps=2, train="unet")


class StopAt(Log):
    """Cancels while the images are encoded."""

    def stage(self, name: str, done: int, total: int) -> None:
        super().stage(name, done, total)
        if done == 3:
            raise Stop


def counting(calls: list[int]) -> Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    def encode(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        calls.append(1)
        return tiny_parts.encode(pixels)

    return encode


def test_a_cancelled_encoding_goes_on_where_it_stopped(tmp_path: Path) -> None:
    tiny_parts.write_images(tmp_path / "images", count=7)
    calls: list[int] = []
    with pytest.raises(Stop):
        train(replace(make_job(tmp_path, SHORT, StopAt()), encode=counting(calls)))
    assert len(calls) == 3
    job = replace(make_job(tmp_path, SHORT), encode=counting(calls))
    train(job)
    assert len(calls) == 7
    assert any(line.startswith("Latents: 4 images encoded in ") and "images/s" in line for line in job.lines)
    assert any(line.endswith("; 3 images were on disk.") for line in job.lines)


def test_a_file_that_breaks_after_the_scan_is_left_out_and_named(tmp_path: Path) -> None:
    folder = tiny_parts.write_images(tmp_path / "images", count=6)
    dataset = scan_folder(str(folder))
    broken = folder / "disc_2.png"
    broken.write_bytes(broken.read_bytes()[:60])
    calls: list[int] = []
    job = replace(make_job(tmp_path, SHORT, dataset=dataset), encode=counting(calls))
    result = train(job)
    assert len(calls) == 5
    assert any("1 image cannot be used ('" in line and "disc_2.png" in line for line in job.lines)
    assert "2 steps of 1 image: 0.40 epochs of 5 steps." in job.lines
    # it is the very run of a dataset that never had the file
    again = train(make_job(tmp_path, SHORT, dataset=scan_folder(str(folder))))
    assert (again.reused, again.path) == (True, result.path)
    assert read_metadata(result.path)["ss_num_train_images"] == "5"


def test_the_benchmark_keeps_every_image_but_the_broken_one() -> None:
    command = [sys.executable, dev.ROOT / "benchmarks" / "cache.py", "--images", "3", "--size", "64", "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "First pass on cpu: Latents: 2 images encoded in " in done.stdout
    assert "Second pass on cpu: Latents: 2 images were on disk." in done.stdout
    assert done.stdout.count("1 image cannot be used") == 2


def test_a_dataset_that_is_gone_is_an_error_that_names_it(tmp_path: Path) -> None:
    folder = tiny_parts.write_images(tmp_path / "images", count=3)
    job = make_job(tmp_path, SHORT, dataset=scan_folder(str(folder)))
    for path in folder.glob("*.png"):
        path.unlink()
    with pytest.raises(BrokenImages, match="3 images cannot be used .*disc_0.png.*; mend or remove"):
        train(job)
