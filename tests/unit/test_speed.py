"""The arithmetic of a step beside what the device could do."""

from __future__ import annotations

import re

import pytest
import torch
from pack.trainer.sdxl.speed import floor_flops, product_speed, speed_line
from tiny_parts import full_size_parts, make_parts

CPU = torch.device("cpu")


@pytest.mark.parametrize(("side", "tera"), [(256, 0.86), (1024, 13.5)])
def test_the_floor_of_sdxl_is_twice_its_forward_pass(side: int, tera: float) -> None:
    # one forward pass is 0.428 TFLOP at 256² and 6.76 at 1024²; a few blocks before the first adapter need no gradient
    floor = floor_flops(full_size_parts(), torch.Size((1, 4, side // 8, side // 8)), with_text=False)
    assert floor / 1e12 == pytest.approx(tera, rel=0.06)


def test_the_floor_grows_with_the_batch_and_with_the_text_encoders() -> None:
    parts = make_parts()
    one, two = (floor_flops(parts, torch.Size((n, 4, 8, 8)), with_text=False) for n in (1, 2))
    assert two == 2 * one
    assert floor_flops(parts, torch.Size((1, 4, 8, 8)), with_text=True) > one


def test_the_line_sets_the_step_beside_the_floor() -> None:
    line = speed_line(3 * 10**9, 2.0, CPU, torch.float32)
    assert line.startswith("A step is 0.003 TFLOP at least, done at 0.0015 TFLOP/s; a large product alone reaches ")
    reached, floor = (float(n) for n in re.findall(r"reaches (\S+) TFLOP/s here, so (\S+) s", line)[0])
    assert reached * 1e12 * floor == pytest.approx(3e9, rel=0.02)


def test_a_device_multiplies_at_some_speed() -> None:
    assert 1e8 < product_speed(CPU, torch.float32) < 1e15
