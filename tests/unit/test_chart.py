"""The loss chart and the heat map: legible for every run, also for a broken one."""

from __future__ import annotations

import math
import warnings

import matplotlib
import numpy as np
import pytest
from pack.figures.axes import Axis
from pack.figures.cells import cells
from pack.figures.chart import loss_chart, running_mean
from pack.figures.draw import render
from pack.figures.heat_map import plan_heat_map
from pack.figures.style import FigureStyle
from PIL import Image

NAN = math.nan
AXES = [Axis("cfg", (1.0, 7.0)), Axis("lora_weight", (0.0, 0.5, 1.0))]


def colours(image: Image.Image) -> int:
    return len(image.getcolors(maxcolors=2**20) or [])


@pytest.mark.parametrize(
    ("values", "window", "mean"),
    [
        ([1, 2, 3], 1, [1, 2, 3]),
        ([1, 2, 6], 3, [1.5, 3, 4]),
        ([1, NAN, 3], 3, [1, 2, 3]),
        ([NAN, NAN, NAN, 4], 3, [NAN, NAN, 4, 4]),
        ([1, 2, 3, 4], 2, [1.5, 2.5, 3.5, 4]),
        ([5], 1, [5]),
    ],
)
def test_the_running_mean_is_centred_and_passes_over_gaps(values: list, window: int, mean: list) -> None:
    np.testing.assert_allclose(running_mean(values, window), mean)


@pytest.mark.parametrize(
    "loss",
    [
        [0.5],
        [0.5] * 10,
        [0.0] * 10,
        [NAN],
        [NAN, math.inf, -math.inf],
        [0.1, NAN, 0.2, 1e30],
        [1e-12, 2e-12],
        [-1.0, 1.0],
        list(np.linspace(1, 0.1, 5000)),
    ],
)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_run_has_a_chart(loss: list[float], theme: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chart = loss_chart(loss, theme=theme, title="Gubitak $x_1$ čćđšž")
    assert chart.size == (960, 540) and chart.mode == "RGB" and colours(chart) > 20


def test_learning_rate_and_validation_are_drawn() -> None:
    loss = [1 / step for step in range(1, 101)]
    plain = loss_chart(loss)
    rated = loss_chart(loss, learning_rate=[1e-4] * 100)
    validated = loss_chart(loss, validation=[(0, 0.5), (50, 0.3), (100, NAN)])
    assert plain.tobytes() != rated.tobytes() and plain.tobytes() != validated.tobytes()


def test_one_spike_does_not_flatten_the_curve() -> None:
    calm = [0.1 + 0.05 * math.sin(step / 5) for step in range(400)]
    spiked = [*calm[:200], 1e6, *calm[200:]]
    inked = [np.asarray(loss_chart(loss, smoothing=1).convert("L"))[60:400, 100:900] < 200 for loss in (calm, spiked)]
    rows = [np.flatnonzero(ink.any(axis=1)) for ink in inked]
    spans = [found[-1] - found[0] for found in rows]
    assert spans[1] > 0.8 * spans[0]


@pytest.mark.parametrize("size", [(200, 150), (400, 300), (1920, 1080)])
def test_the_chart_has_the_size_asked_for(size: tuple[int, int]) -> None:
    assert loss_chart([0.2, 0.1], width_px=size[0], height_px=size[1]).size == size


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"loss": []}, "no loss to draw"),
        ({"loss": [1.0], "smoothing": 0}, "smoothing is 0 steps"),
        ({"loss": [1.0], "width_px": 10}, "10 × 540 px is too small"),
    ],
)
def test_what_cannot_be_drawn_is_said(arguments: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        loss_chart(**arguments)


def test_charts_leave_the_settings_of_matplotlib_alone() -> None:
    before = dict(matplotlib.rcParams)
    loss_chart([0.2, 0.1], theme="dark")
    plan_heat_map(AXES, {(0, 0): 1.0})
    assert dict(matplotlib.rcParams) == before


def test_a_heat_map_writes_every_number_on_its_colour() -> None:
    values = {cell.index: 0.1 * number for number, cell in enumerate(cells(AXES))}
    (layout,), swatch = plan_heat_map(AXES, values)
    for cell in layout.cells:
        inside = [
            run.text
            for run in layout.texts
            if cell.box.x < run.x < cell.box.x + cell.box.width and cell.box.y < run.y < cell.box.y + cell.box.height
        ]
        assert [float(text) for text in inside] == [pytest.approx(values[cell.index])]
    least, greatest = swatch((0, 0)), swatch((1, 2))
    assert least is not None and greatest is not None
    assert np.asarray(least).mean() < np.asarray(greatest).mean()


@pytest.mark.parametrize(
    "values", [{}, {(0, 0): None}, {(0, 0): NAN}, {(0, 0): 2.0}, {(0, 0): 0.0, (0, 1): -1e9, (1, 0): 1e-9}]
)
def test_a_heat_map_shows_what_is_missing(values: dict) -> None:
    (layout,), swatch = plan_heat_map(AXES, values)
    finite = sum(value is not None and not math.isnan(value) for value in values.values())
    assert [run.text for run in layout.texts if run.role == "reason"] == ["no value"] * (6 - finite)
    assert render(layout, swatch).size == (layout.width, layout.height)


def test_a_heat_map_of_several_pages_has_one_scale_of_colours() -> None:
    axes = [*AXES, Axis("seed", (1, 2))]
    values = {cell.index: float(number) for number, cell in enumerate(cells(axes))}
    layouts, swatch = plan_heat_map(axes, values, FigureStyle(pages=True))
    assert [[cell.index[2] for cell in layout.cells] for layout in layouts] == [[0] * 6, [1] * 6]
    assert [sorted(float(run.text) for run in layout.texts if run.colour) for layout in layouts] == [
        [float(number) for number in range(page, 12, 2)] for page in (0, 1)
    ]
    assert swatch((0, 0, 0)) != swatch((0, 0, 1))
