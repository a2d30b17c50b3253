"""Views of images and of axes that are there already."""

from __future__ import annotations

import numpy as np
import pytest
from pack.figures import Axis
from pack.figures.measures import distance, saturation
from pack.figures.select import select_axes, without_axis
from pack.figures.views import Region, average, crop, difference, with_inset
from PIL import Image

CFG = Axis("cfg", (1.0, 4.5, 7.0))
SEED = Axis("seed", (1, 2))


def ramp(width: int = 40, height: int = 20) -> Image.Image:
    values = np.arange(width * height * 3, dtype=np.uint32) % 251
    return Image.fromarray(values.reshape(height, width, 3).astype(np.uint8))


def test_a_crop_repeats_pixels_and_smooths_none() -> None:
    piece = np.asarray(crop(ramp(), Region(25, 50, 50, 25), enlarge=3))
    assert np.array_equal(piece[::3, ::3], np.asarray(ramp())[10:15, 10:30])
    assert np.array_equal(piece[1::3, 2::3], piece[::3, ::3])


def test_an_inset_leaves_the_rest_of_the_image() -> None:
    before, after = np.asarray(ramp(200, 200)), np.asarray(with_inset(ramp(200, 200), Region(10, 10, 10, 10), 4))
    assert after.shape == before.shape
    assert np.array_equal(after[:, :19], before[:, :19]) and np.array_equal(after[45:115, :110], before[45:115, :110])
    assert np.array_equal(after[119:199:4, 119:199:4], before[20:40, 20:40])


@pytest.mark.parametrize(
    ("at", "corner"),
    [((10, 10), "lower right"), ((10, 75), "lower right"), ((75, 75), "upper right"), ((45, 75), "upper right"),
     ((75, 40), "lower left")],
)  # fmt: skip
def test_an_inset_stands_in_the_corner_where_it_hides_least(at: tuple[int, int], corner: str) -> None:
    image = ramp(200, 200)
    before, after = np.asarray(image), np.asarray(with_inset(image, Region(*at, 20, 20), 2))
    x, y = {"lower right": (119, 119), "upper right": (119, 1), "lower left": (1, 119)}[corner]
    left, top = 2 * at[0], 2 * at[1]
    assert np.array_equal(after[y : y + 80 : 2, x : x + 80 : 2], before[top : top + 40, left : left + 40])
    assert np.array_equal(
        after[top + 1 : top + 39, left + 1 : left + 39], before[top + 1 : top + 39, left + 1 : left + 39]
    )


@pytest.mark.parametrize("region", [(100, 0, 5, 5), (0, 0, 0, 5), (-1, 0, 5, 5)])
def test_a_region_outside_is_refused(region: tuple[float, float, float, float]) -> None:
    with pytest.raises(ValueError, match="empty or outside"):
        Region(*region)


def test_a_difference_is_grey_where_nothing_differs() -> None:
    one = Image.new("RGB", (4, 2), (100, 100, 100))
    other = Image.new("RGB", (4, 2), (90, 100, 130))
    assert difference(one, one, 5).getcolors() == [(8, (128, 128, 128))]
    assert difference(one, other, 2).getcolors() == [(8, (148, 128, 68))]
    with pytest.raises(ValueError, match="cannot be compared"):
        difference(one, ramp(), 1)


def test_mean_and_spread() -> None:
    images = [Image.new("RGB", (2, 2), (value, 0, 50)) for value in (10, 30)]
    assert average(images).getpixel((0, 0)) == (20, 0, 50)
    assert average(images, spread=True).getpixel((0, 0)) == (57, 0, 0), (
        "of the sample: 10 times the root of 2, four times"
    )
    assert average(images[:1], spread=True).getpixel((0, 0)) == (0, 0, 0)
    with pytest.raises(ValueError, match="one size"):
        average([])


def test_hidden_colours_count_for_nothing() -> None:
    clear, white = Image.new("RGBA", (8, 8), (200, 0, 0, 0)), Image.new("RGB", (8, 8), "white")
    assert difference(clear, white, 1).getcolors() == [(64, (128, 128, 128))]
    assert average([clear, white]).getcolors() == [(64, (255, 255, 255))]
    assert distance(clear, white) == 0 == saturation(clear)
    assert with_inset(clear, Region(0, 0, 25, 25), 2).getpixel((6, 6))[3] == 0


def test_values_are_kept_in_the_order_written() -> None:
    axes, places = select_axes((CFG, SEED), "cfg SCALE: 7, 4.5\n")
    assert axes[0].values == (7.0, 4.5) and axes[0].texts == ("7.0", "4.5")
    assert axes[1].values == SEED.values
    assert places == [(2, 0), (2, 1), (1, 0), (1, 1)]


@pytest.mark.parametrize(
    ("text", "says"),
    [("steps: 1", 'no axis "steps"; there are: CFG scale, Seed'), ("Seed: 3", 'Seed has no value "3"; it has 1, 2'),
     ("Seed 1", "names no values")],
)  # fmt: skip
def test_what_is_not_there_cannot_be_kept(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        select_axes((CFG, SEED), text)


def test_an_axis_is_averaged_away() -> None:
    axes, groups = without_axis((CFG, SEED), "seed")
    assert axes == (CFG,)
    assert groups == [[(0, 0), (0, 1)], [(1, 0), (1, 1)], [(2, 0), (2, 1)]]


def test_a_value_with_commas_is_named_in_quotes_or_alone_in_its_line() -> None:
    prompts = Axis("prompt", ("moon, sea", "moon", 'the "dark" side, far'))
    for text in ('prompt: "moon, sea", moon', "prompt: moon, sea"):
        axes, places = select_axes((prompts,), text)
        assert places[0] == (0,) and axes[0].values[0] == "moon, sea"
    assert select_axes((prompts,), 'prompt: "the ""dark"" side, far"')[1] == [(2,)]
    with pytest.raises(ValueError, match="Put a value with commas in quotes"):
        select_axes((prompts,), "prompt: moon, sun")
