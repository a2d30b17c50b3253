"""A moonless night over pines, rendered at any size: what the Moon is painted into.

Nothing here is a photograph, so there is no licence to ask for, and no file that could be missing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

FloatArray = np.ndarray
_SUPERSAMPLE = 2
_ZENITH, _HORIZON = (5, 8, 24), (52, 68, 108)
# colour, height of the tallest tree as a share of the picture, trees a picture's width
_FOREST = (((24, 35, 60), 0.17, 34), ((14, 22, 41), 0.29, 17), ((5, 9, 18), 0.47, 8))


def night_scene(width: int, height: int, seed: int = 0) -> Image.Image:
    """Stars, two ridges of hills and three rows of pines as an RGB image; equal seeds make equal pixels.

    Raises:
        ValueError: a side below 64 pixels.
    """
    if min(width, height) < 64:
        raise ValueError(f"A night scene of {width} × {height} pixels is too small; give at least 64 a side.")
    rng = np.random.default_rng(seed)
    size = (width * _SUPERSAMPLE, height * _SUPERSAMPLE)
    sky = _sky(rng, width, height).resize(size, Image.Resampling.BICUBIC)
    _draw_ridges(rng, sky)
    for colour, tallest, count in _FOREST:
        _draw_pines(rng, sky, colour, tallest, count)
    return sky.resize((width, height), Image.Resampling.BOX)


@dataclass(frozen=True)
class Disc:
    """A place in a picture: centre and diameter in percent of its width, height and shorter side."""

    x: float = 50.0
    y: float = 27.0
    diameter: float = 34.0

    def mask(self, width: int, height: int) -> FloatArray:
        """(height, width) float32, 1 inside and 0 outside, with an edge a fiftieth of the shorter side wide."""
        shorter = min(width, height)
        y, x = np.mgrid[0:height, 0:width].astype(np.float32) + 0.5
        distance = np.hypot(x - self.x / 100 * width, y - self.y / 100 * height)
        return np.clip(0.5 + (self.diameter / 200 * shorter - distance) / (shorter / 50), 0, 1).astype(np.float32)


def _sky(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    down = np.linspace(0, 1, height, dtype=np.float32)[:, None, None] ** 1.3
    sky = np.array(_ZENITH, np.float32) * (1 - down) + np.array(_HORIZON, np.float32) * down
    sky = np.broadcast_to(sky, (height, width, 3)).copy()
    # thin veils of cloud, coarse over fine
    veil = sum(_noise(rng, width, height, cells) / 2**octave for octave, cells in enumerate((3, 6, 12)))
    sky += (np.clip(veil - 0.85, 0, 1)[..., None] * np.array((34, 40, 58), np.float32)) * (0.4 + 0.6 * down)
    sky += _stars(rng, width, height)[..., None] * np.array((1.0, 0.98, 0.94), np.float32)
    # half a step of noise, or the slow gradient would show bands
    return Image.fromarray(np.clip(sky + rng.random(sky.shape), 0, 255).astype(np.uint8))


def _noise(rng: np.random.Generator, width: int, height: int, cells: int) -> FloatArray:
    """Smooth noise in [0, 1], (height, width)."""
    coarse = Image.fromarray(rng.random((cells + 1, cells + 1)).astype(np.float32))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def _stars(rng: np.random.Generator, width: int, height: int) -> FloatArray:
    """Light of the stars, (height, width): many faint ones and few bright ones, none as small as a pixel."""
    light = np.zeros((height, width), np.float32)
    spread = max(0.5, min(width, height) / 1100)
    reach = int(np.ceil(4 * spread))
    for x, y, bright in rng.random((220, 3)):
        column, row = x * width, y * 0.72 * height
        top, left = max(0, int(row) - reach), max(0, int(column) - reach)
        window = light[top : int(row) + reach + 1, left : int(column) + reach + 1]
        rows, columns = np.mgrid[top : top + window.shape[0], left : left + window.shape[1]]
        window += (25 + 200 * bright**4) * np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * spread**2))
    return light


def _draw_ridges(rng: np.random.Generator, picture: Image.Image) -> None:
    pen, (width, height) = ImageDraw.Draw(picture), picture.size
    across = np.linspace(0, 1, 160)
    for colour, base, swing in (((37, 50, 83), 0.66, 0.10), ((30, 42, 72), 0.74, 0.07)):
        waves = zip((1.3, 3.1, 7.7, 17.0), (1.0, 0.5, 0.2, 0.08), strict=True)
        line = sum(size * np.sin(2 * np.pi * (rate * across + rng.random())) for rate, size in waves)
        edge = [(x * width, (base - swing * y / 1.8) * height) for x, y in zip(across, line, strict=True)]
        pen.polygon([*edge, (width, height), (0, height)], fill=colour)


def _draw_pines(
    rng: np.random.Generator, picture: Image.Image, colour: tuple[int, int, int], tallest: float, count: int
) -> None:
    """One row of trees from edge to edge, the ones in the middle lower, so that the sky stays open above them."""
    pen, (width, height) = ImageDraw.Draw(picture), picture.size
    ground = height * (0.99 - 0.3 * (0.5 - tallest))
    pen.rectangle((0, ground - 0.012 * height, width, height), fill=colour)
    for place in (np.arange(count) + rng.uniform(0.15, 0.85, count)) / count:
        openness = 0.62 + 0.38 * abs(2 * place - 1) ** 0.8
        tall = tallest * height * openness * rng.uniform(0.72, 1.0)
        _draw_pine(rng, pen, (place * width, ground), tall, colour)


def _draw_pine(
    rng: np.random.Generator, pen: ImageDraw.ImageDraw, foot: tuple[float, float], tall: float, colour: object
) -> None:
    """A slender conifer: tiers of drooping branches that widen towards the ground."""
    x, y = foot
    tiers = 13
    left, right = [], []
    for tier in range(1, tiers + 1):
        share = tier / tiers
        reach = tall * 0.19 * share**0.85
        drop = y - tall * (1 - share) + tall * 0.028
        for side, outline in ((-1, left), (1, right)):
            out = reach * rng.uniform(0.72, 1.1)
            outline += [(x + side * out, drop + 0.014 * tall), (x + side * out * 0.42, drop - 0.012 * tall)]
    pen.polygon([(x, y - tall), *right, (x, y), *reversed(left)], fill=colour)
    pen.line((x, y - tall * 0.6, x, y + 0.02 * tall), fill=colour, width=max(1, int(tall * 0.018)))
