"""Measures of an image against values that can be told by hand, and the rendered night scene."""

from __future__ import annotations

import numpy as np
import pytest
from pack.figures.measures import clipped, contrast, distance, saturation
from pack.trainer.moons.night_scene import Disc, night_scene
from PIL import Image


def halves(left: tuple[int, int, int], right: tuple[int, int, int]) -> Image.Image:
    image = Image.new("RGB", (8, 4), left)
    image.paste(right, (4, 0, 8, 4))
    return image


BLACK, WHITE, RED = (0, 0, 0), (255, 255, 255), (255, 0, 0)


@pytest.mark.parametrize(
    ("measure", "image", "value"),
    [
        (saturation, halves(BLACK, WHITE), 0),
        (saturation, halves(BLACK, RED), 50),
        (contrast, halves(WHITE, WHITE), 0),
        (contrast, halves(BLACK, WHITE), 50),
        (contrast, halves(BLACK, RED), 50 * 0.2126),
        (clipped, halves((253, 253, 253), BLACK), 0),
        (clipped, halves((254, 0, 0), BLACK), 50),
    ],
)
def test_a_measure_is_what_it_says(measure, image: Image.Image, value: float) -> None:
    assert measure(image) == pytest.approx(value)


def test_distance_is_the_root_of_the_mean_square_and_minds_no_size() -> None:
    assert distance(halves(BLACK, BLACK), halves(BLACK, WHITE)) == pytest.approx(255 * 0.5**0.5)
    assert distance(halves(BLACK, BLACK).resize((16, 8)), halves(BLACK, BLACK)) == 0


def test_a_night_scene_follows_its_seed_and_is_dark_above_and_darker_below() -> None:
    one = np.asarray(night_scene(96, 80, 3), int)
    assert one.shape == (80, 96, 3)
    assert np.array_equal(one, np.asarray(night_scene(96, 80, 3)))
    assert not np.array_equal(one, np.asarray(night_scene(96, 80, 4)))
    # the horizon is lighter than the zenith, and the pines stand before it
    assert one[40:48].mean() > 1.5 * one[:8].mean()
    assert one[-4:].mean() < one[40:48].mean() / 2


def test_a_scene_that_is_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="63 × 64 pixels is too small"):
        night_scene(63, 64)


def test_a_disc_is_where_and_as_large_as_it_says() -> None:
    mask = Disc(x=25, y=50, diameter=40).mask(200, 100)
    assert mask.shape == (100, 200) and mask.dtype == np.float32
    assert mask[50, 50] == 1 and mask[50, 150] == 0
    assert mask.sum() == pytest.approx(np.pi * 20**2, rel=0.02)
    rows, columns = np.nonzero(mask > 0.5)
    assert (columns.min(), columns.max()) == (30, 69) and (rows.min(), rows.max()) == (30, 69)
