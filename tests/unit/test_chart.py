"""The loss chart and the heat map: legible for every run, also for a broken one."""

from __future__ import annotations

import math
import re
import warnings
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from pack.figures.axes import Axis
from pack.figures.cells import cells
from pack.figures.chart import loss_chart
from pack.figures.chart_style import WORDS, ChartStyle
from pack.figures.curves import running_mean, thinned
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
        chart = loss_chart(loss, style=ChartStyle(theme=theme, title="Gubitak $x_1$ čćđšž")).image()
    assert chart.size == (960, 540) and chart.mode == "RGB" and colours(chart) > 20


def test_learning_rate_and_validation_are_drawn() -> None:
    loss = [1 / step for step in range(1, 101)]
    plain = loss_chart(loss).image()
    rated = loss_chart(loss, learning_rate=[1e-4] * 100).image()
    validated = loss_chart(loss, validation=[(0, 0.5), (50, 0.3), (100, NAN)]).image()
    assert plain.tobytes() != rated.tobytes() and plain.tobytes() != validated.tobytes()


def chart_of(loss: list[float]) -> Image.Image:
    return loss_chart(loss, style=ChartStyle(smoothing=1)).image().convert("L")


def test_one_spike_does_not_flatten_the_curve() -> None:
    calm = [0.1 + 0.05 * math.sin(step / 5) for step in range(400)]
    spiked = [*calm[:200], 1e6, *calm[200:]]
    inked = [np.asarray(chart_of(loss))[60:400, 100:900] < 200 for loss in (calm, spiked)]
    rows = [np.flatnonzero(ink.any(axis=1)) for ink in inked]
    spans = [found[-1] - found[0] for found in rows]
    assert spans[1] > 0.8 * spans[0]


@pytest.mark.parametrize("size", [(200, 150), (400, 300), (1920, 1080)])
def test_the_chart_has_the_size_asked_for(size: tuple[int, int]) -> None:
    assert loss_chart([0.2, 0.1], style=ChartStyle(width_px=size[0], height_px=size[1])).image().size == size


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"loss": []}, "no loss to draw"),
        ({"smoothing": 0}, "smoothing is 0 steps"),
        ({"width_px": 10}, "10 × 540 px is too small"),
        ({"width_mm": 9.0}, "printed width is 9 mm; use at least 40"),
        ({"font": "comic"}, "is not a font here"),
        ({"language": "de"}, "language of a chart is en or hr"),
    ],
)
def test_what_cannot_be_drawn_is_said(arguments: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        loss_chart(arguments.pop("loss", [1.0]), style=ChartStyle(**arguments))


def test_charts_leave_the_settings_of_matplotlib_alone() -> None:
    before = dict(matplotlib.rcParams)
    loss_chart([0.2, 0.1], style=ChartStyle(theme="dark")).image()
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


def test_a_long_line_keeps_its_extremes_and_gaps_in_few_points() -> None:
    steps = np.arange(1, 100_001)
    values = np.sin(steps / 5000)
    values[77_777], values[123], values[50_000:60_000] = 9.0, -9.0, NAN
    kept, shown = thinned(steps, values, 400)
    assert len(kept) <= 800 and (np.diff(kept) > 0).all()
    assert np.array_equal(shown, values[kept - 1], equal_nan=True)
    assert np.nanmax(shown) == 9.0 and np.nanmin(shown) == -9.0 and np.isnan(shown).sum() > 30
    assert (
        thinned(steps[:800], values[:800], 400)[1] is not None
        and len(thinned(steps[:800], values[:800], 400)[0]) == 800
    )


def test_a_translucent_line_of_a_long_run_is_of_one_strength() -> None:
    """A line that is cut into pieces is painted twice where they meet."""
    level = loss_chart([0.5] * 90_000, style=ChartStyle(smoothing=2, width_px=600, height_px=300)).image().convert("L")
    inked = np.asarray(level, dtype=int)[:250, 90:580]
    row = inked[inked.sum(axis=1).argmin()]
    assert np.ptp(row[5:-5]) <= 2


KINDS = {"": "loss", "MSE": "loss (MSE)", "huber, min-SNR 5": "loss (huber, min-SNR 5)"}


@pytest.mark.parametrize("kind", KINDS)
def test_the_axis_says_what_the_loss_is_and_another_loss_has_its_own(kind: str, tmp_path: Path) -> None:
    chart = loss_chart([0.004] * 50, validation=[(0, 0.15), (50, 0.14)], kind=kind)
    chart.write(tmp_path / "a.svg")
    words = texts_of(tmp_path / "a.svg")
    assert KINDS[kind] in words
    alone = kind == "huber, min-SNR 5"
    assert ("held-out loss (MSE)" in words) is alone
    # on one axis the held-out loss sets its upper end, on its own it does not
    highest = max(
        float(word) for word in words[: words.index(KINDS[kind])] if word.replace(".", "").isdigit() and "." in word
    )
    assert (highest < 0.02) is alone


def texts_of(path: Path) -> list[str]:
    tree = ElementTree.parse(path)  # noqa: S314 - our own file
    return ["".join(text.itertext()) for text in tree.iter("{http://www.w3.org/2000/svg}text")]


def test_a_chart_for_print_has_its_width_its_type_and_its_language(tmp_path: Path) -> None:
    style = ChartStyle(title="Gubitak", width_px=1890, height_px=1063, width_mm=160.0, font="serif", language="hr")
    chart = loss_chart([0.3, NAN, 0.2] * 40, validation=[(0, 0.3)], style=style)
    assert chart.image().size == (1890, 1063)
    for name in ("a.pdf", "b.pdf"):
        chart.write(tmp_path / name)
    assert (tmp_path / "a.pdf").read_bytes() == (tmp_path / "b.pdf").read_bytes()
    pages = (tmp_path / "a.pdf").read_bytes()
    box = re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]", pages)
    assert float(box[1]) / 72 * 25.4 == pytest.approx(160, abs=0.1)
    assert b"DejaVuSerif" in pages and b"DejaVuSans" not in pages
    chart.write(tmp_path / "a.svg")
    words = texts_of(tmp_path / "a.svg")
    wanted = {"korak", "gubitak", "klizni prosjek kroz 3 koraka", "gubitak na izdvojenim slikama", "Gubitak"}
    assert any(re.fullmatch(r"0,\d+", word) for word in words) and not any("." in word for word in words)
    assert wanted | {"bez konačne vrijednosti (40 koraka)"} <= set(words)


@pytest.mark.parametrize(("count", "told"), [(1, "1 korak"), (2, "2 koraka"), (11, "11 koraka"), (21, "21 korak")])
def test_steps_are_counted_in_croatian(count: int, told: str) -> None:
    assert WORDS["hr"].steps(count) == told
    assert WORDS["en"].steps(count) == f"{count} step{'s' if count > 1 else ''}"
