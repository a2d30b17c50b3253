"""Photographs of the Moon that were never taken: `surface` seen through an imagined telescope.

The Sun's direction makes the phase, relief casts shade along the terminator, and the camera adds exposure,
tint, blur, glare and noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy

from ..errors import SettingsError
from .surface import Array, Surface, map_coordinates, near_side

if TYPE_CHECKING:
    from PIL import Image

VERSION = 1  # raise it whenever a picture of the same seed changes
_SMALLEST, _LARGEST = 64, 2048
# phase, share among the pictures, phase angle in degrees (0: the Sun behind the camera)
_PHASES = (
    ("full", 0.34, 0, 14),
    ("gibbous", 0.28, 28, 72),
    ("half", 0.16, 80, 98),
    ("crescent", 0.22, 108, 148),
)


@dataclass(frozen=True)
class _View:
    """What one photograph is taken of and with; angles in radians, lengths in shares of the frame's side."""

    phase: str
    sun: Array  # unit vector in camera coordinates (right, up, towards the camera)
    turn: Array  # (3, 3), camera coordinates to the Moon's
    radius: float
    centre: tuple[float, float]
    exposure: float
    contrast: float
    tint: Array
    blur: float
    glare: float
    grain: float
    sky: Array


def render_moon(size: int, seed: int) -> tuple[Image.Image, str]:
    """A photograph of the Moon, `size` x `size` pixels RGB, and its caption: "a photo of the half moon".

    The same (size, seed) gives the same picture; the same seed at another size, the same view with more or
    less detail. Raises SettingsError for a size outside 64 to 2048 or a negative seed.
    """
    from PIL import Image

    if not _SMALLEST <= size <= _LARGEST:
        raise SettingsError(f"The size {size} of a Moon must be from {_SMALLEST} to {_LARGEST} pixels.")
    if seed < 0:
        raise SettingsError(f"The seed {seed} must not be negative.")
    generator = numpy.random.Generator(numpy.random.PCG64([seed, VERSION]))
    view = _draw_view(generator)
    light = _expose(_lit_disc(size, view), view)
    grain = generator.normal(size=light.shape).astype(numpy.float32)
    light += view.grain * grain * numpy.sqrt(0.12 + light)
    pixels = numpy.rint(255.0 * light.clip(0.0, 1.0)).astype(numpy.uint8)
    return Image.fromarray(pixels), f"a photo of the {view.phase} moon"


def _draw_view(generator: numpy.random.Generator) -> _View:
    def between(low: float, high: float) -> float:
        return float(generator.uniform(low, high))

    phase, _, low, high = _PHASES[generator.choice(len(_PHASES), p=[share for _, share, _, _ in _PHASES])]
    angle = numpy.radians(between(low, high))
    roll = numpy.radians(generator.normal(0.0, 28.0)) + (numpy.pi if generator.uniform() < 0.12 else 0.0)
    # the Sun stands near the Moon's equator, to its east or west
    side = numpy.radians(generator.normal(0.0, 5.0)) + (numpy.pi if generator.uniform() < 0.5 else 0.0) + roll
    sun = [numpy.sin(angle) * numpy.cos(side), numpy.sin(angle) * numpy.sin(side), numpy.cos(angle)]
    radius = between(0.275, 0.475) if generator.uniform() < 0.9 else between(0.18, 0.275)
    slack = 0.5 - radius
    centre = 0.5 + slack * generator.normal(0.0, 0.33, size=2).clip(-0.95, 0.95)
    warmth = between(-0.04, 0.10) if generator.uniform() < 0.8 else between(0.12, 0.34)
    return _View(
        phase=phase,
        sun=numpy.array(sun, dtype=numpy.float32),
        turn=_turn(roll, *numpy.radians(generator.uniform(-7.0, 7.0, size=2))),
        radius=radius,
        centre=(float(centre[0]), float(centre[1])),
        exposure=between(0.95, 1.4) * (1.0 + 2.4 * float(angle / numpy.pi) ** 2),
        contrast=between(1.1, 1.6),
        tint=numpy.array([1.0, 1.0 - 0.45 * warmth, 1.0 - 1.25 * warmth], dtype=numpy.float32),
        blur=between(0.0005, 0.0020),
        glare=between(0.004, 0.03),
        grain=between(0.004, 0.030),
        sky=numpy.array([1.0, 1.05, 1.25], dtype=numpy.float32) * between(0.0, 0.025),
    )


def _turn(roll: float, longitude: float, latitude: float) -> Array:
    """The rotation from camera coordinates to the Moon's: undoes the camera's roll, then librates."""
    cos, sin = numpy.cos([roll, longitude, latitude]), numpy.sin([roll, longitude, latitude])
    unroll = [[cos[0], sin[0], 0], [-sin[0], cos[0], 0], [0, 0, 1]]
    east = [[cos[1], 0, sin[1]], [0, 1, 0], [-sin[1], 0, cos[1]]]
    north = [[1, 0, 0], [0, cos[2], sin[2]], [0, -sin[2], cos[2]]]
    return (numpy.array(east) @ numpy.array(north) @ numpy.array(unroll)).astype(numpy.float32)


def _lit_disc(size: int, view: _View) -> Array:
    """(size, size, 3) linear light from the Moon, about 1 where highlands face the Sun."""
    axis = (numpy.arange(size, dtype=numpy.float32) + 0.5) / size
    x = ((axis - view.centre[0]) / view.radius)[None, :] + numpy.zeros((size, 1), numpy.float32)
    y = ((view.centre[1] - axis) / view.radius)[:, None] + numpy.zeros((1, size), numpy.float32)
    distance = numpy.sqrt(x * x + y * y)
    coverage = ((1.0 - distance) * view.radius * size + 0.5).clip(0.0, 1.0)
    # what lies just outside the limb continues it, so that slopes are defined up to the edge
    shrink = numpy.minimum(1.0, 0.9995 / numpy.maximum(distance, 1e-6))
    x, y = x * shrink, y * shrink
    normal = numpy.stack([x, y, numpy.sqrt(1.0 - x * x - y * y)], axis=-1)

    surface = near_side(_map_side(size))
    albedo, height, warmth = _sampled(surface, normal @ view.turn.T)
    shade = _shade(normal, _tilted(normal, height, view.radius * size), view.sun)
    light = coverage * albedo * shade
    colour = 1.0 + 0.03 * warmth[..., None] * numpy.array([1.0, 0.0, -1.0], dtype=numpy.float32)
    return light[..., None] * colour


def _map_side(size: int) -> int:
    return int(1.5 * size)


def _sampled(surface: Surface, points: Array) -> tuple[Array, Array, Array]:
    """Albedo, height and warmth at points of the sphere, interpolated in the map."""
    side = surface.albedo.shape[0]
    column, row = map_coordinates(points[..., 0], points[..., 1], points[..., 2], side)
    left, top = (numpy.floor(at).clip(0, side - 2).astype(numpy.int32) for at in (column, row))
    right_share, low_share = (column - left).clip(0.0, 1.0), (row - top).clip(0.0, 1.0)
    corner = top * side + left

    def read(layer: Array) -> Array:
        flat = layer.ravel()
        upper = flat[corner] + (flat[corner + 1] - flat[corner]) * right_share
        lower = flat[corner + side] + (flat[corner + side + 1] - flat[corner + side]) * right_share
        return upper + (lower - upper) * low_share

    return read(surface.albedo), read(surface.height), read(surface.warmth)


def _tilted(normal: Array, height: Array, radius: float) -> Array:
    """The normals of the relief: the sphere's, less the slope of the height along the surface."""
    down, right = numpy.gradient(height)
    slope = numpy.stack([right, -down, numpy.zeros_like(right)], axis=-1) * numpy.float32(radius)
    slope -= normal * numpy.sum(normal * slope, axis=-1, keepdims=True)
    tilted = normal - slope
    return tilted / numpy.linalg.norm(tilted, axis=-1, keepdims=True)


def _shade(normal: Array, relief: Array, sun: Array) -> Array:
    """The lunar-Lambert law (McEwen 1991): a flat full Moon, and more modelling the further it wanes."""
    phase = numpy.degrees(numpy.arccos(float(sun[2].clip(-1.0, 1.0))))
    lunar = max(0.0, 1.0 - 0.019 * phase + 2.42e-4 * phase**2 - 1.46e-6 * phase**3)
    towards_sun = (relief @ sun).clip(0.0, None)
    # a slope that faces the Sun behind the terminator is lit only where it reaches above the horizon
    towards_sun *= ((normal @ sun + 0.03) / 0.05).clip(0.0, 1.0)
    towards_camera = numpy.maximum(relief[..., 2], 0.02)
    return 2.0 * lunar * towards_sun / (towards_sun + towards_camera) + (1.0 - lunar) * towards_sun


def _expose(light: Array, view: _View) -> Array:
    """The photograph, 0 to 1 in display values, before grain."""
    size = light.shape[0]
    light = _blurred(light, view.blur * size)
    light = light + view.glare * _glare(light) + 0.0012
    light = light * view.tint * numpy.float32(view.exposure)
    # highlights roll off as on a sensor with headroom, then the display's gamma
    light = light / (1.0 + light**3 * 0.25) ** (1.0 / 3.0)
    return (light ** (1.0 / view.contrast) + view.sky).astype(numpy.float32)


def _blurred(image: Array, sigma: float) -> Array:
    """A Gaussian blur along both sides; `sigma` in pixels."""
    reach = max(1, int(numpy.ceil(2.5 * sigma)))
    kernel = numpy.exp(-0.5 * (numpy.arange(-reach, reach + 1) / max(sigma, 0.2)) ** 2)
    kernel = (kernel / kernel.sum()).astype(numpy.float32)
    for axis in (0, 1):
        pad = [(reach, reach) if a == axis else (0, 0) for a in range(3)]
        padded = numpy.pad(image, pad, mode="edge")
        length = image.shape[axis]
        taps = (numpy.take(padded, range(i, i + length), axis) * weight for i, weight in enumerate(kernel))
        image = sum(taps)
    return image


def _glare(light: Array) -> Array:
    """The light that lens and air spread over the frame, from a picture of 32 pixels a side."""
    from PIL import Image

    size = light.shape[0]
    grey = Image.fromarray(light.mean(axis=-1)).resize((32, 32), Image.Resampling.BOX)
    spread = _blurred(numpy.asarray(grey)[..., None], 2.2) + _blurred(numpy.asarray(grey)[..., None], 6.0)
    wide = Image.fromarray(spread[..., 0]).resize((size, size), Image.Resampling.BICUBIC)
    return numpy.maximum(numpy.asarray(wide), 0.0)[..., None]
