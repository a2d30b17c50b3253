"""The Moon's near side as a map: how bright it is and how high, from its named seas, rays and craters.

The map is an azimuthal equal-area projection around the point that faces the Earth on average. Everything is
drawn in coordinates on the sphere, so a crater is round where it lies. numpy only.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy
from numpy.typing import NDArray

Array = NDArray[numpy.float32]

REACH = 1.12  # the map's half side; 1 is the limb of a hemisphere, the rest comes into view by libration
_WORLD_SEED = 1969
_COARSE = 512  # pixels a side of the map in which broad features are computed

# selenographic longitude and latitude of the centre, radius (all in degrees), darkness
_SEAS = (
    (-16, 33, 17.5, 0.95), (18, 27, 11, 1.0), (31, 9, 12.5, 1.0), (59, 17, 7.5, 1.0), (51, -7, 10, 0.85),
    (35, -15, 5.8, 0.85), (-57, 18, 17, 0.85), (-50, 42, 10, 0.8), (-47, -3, 13, 0.85), (-23, -10, 6.5, 0.9),
    (-39, -24, 6.5, 0.95), (-17, -21, 10.5, 0.8), (4, 13, 4.5, 0.8), (1, 2, 3.5, 0.6), (-30, 8, 11, 0.75),
    (-35, 56, 6, 0.7), (-18, 56, 6, 0.7), (0, 57, 6, 0.7), (18, 56, 5.5, 0.65), (33, 53, 4.5, 0.6),
    (86, 13, 6, 0.7), (86, -2, 6, 0.7), (-68, -5, 3.0, 1.0), (-9, 51.5, 1.7, 1.0), (43, 39, 3.5, 0.6),
    (67, 1, 3, 0.6), (-32, 45, 5, 0.9),
)  # fmt: skip
# longitude, latitude, radius of the crater, length of its rays (all in degrees), brightness
_RAYED = (
    (-11.4, -43.3, 1.5, 55, 0.50), (-20.1, 9.6, 1.6, 15, 0.36), (-38.0, 8.1, 0.6, 10, 0.40),
    (-47.5, 23.7, 0.8, 8, 0.75), (61.0, -8.9, 2.2, 11, 0.24), (46.8, 16.1, 0.5, 9, 0.40),
    (-60.4, -54.0, 0.9, 10, 0.22), (61.4, -37.0, 1.0, 14, 0.25), (16.0, 38.0, 0.5, 7, 0.25),
    (78.0, 57.0, 1.1, 18, 0.25), (-65.0, 50.0, 0.8, 13, 0.22), (11.0, 81.0, 1.0, 16, 0.22),
)  # fmt: skip
# longitude, latitude, radius (degrees) of large craters without rays
_LARGE = (
    (-14.1, -58.4, 3.8), (-1.8, -9.3, 2.5), (-2.8, -13.5, 1.8), (-1.9, -18.2, 1.6), (26.4, -11.4, 1.65),
    (24.0, -13.2, 1.6), (23.6, -18.0, 1.65), (60.9, -25.3, 2.9), (56.0, -47.0, 2.2), (-39.9, -17.6, 1.85),
    (-11.3, 14.5, 0.95), (39.2, -29.5, 1.45), (14.0, -41.1, 1.9), (6.0, -41.8, 2.1), (-22.2, -49.5, 2.4),
    (10.0, -32.0, 2.0), (0.3, -30.0, 2.1), (40.0, 47.0, 1.4), (44.0, 50.3, 1.1), (-4.0, 29.7, 1.35),
    (-55.0, -51.0, 3.5), (6.2, -49.5, 1.8), (0.5, -70.6, 1.9), (-2.0, -25.5, 2.2), (-68.0, -46.0, 3.4),
)  # fmt: skip


@dataclass(frozen=True)
class Surface:
    """`albedo` in 0 to 1, `height` in radii of the Moon, `warmth` about 0; each (side, side) float32."""

    albedo: Array
    height: Array
    warmth: Array


@lru_cache(maxsize=2)
def near_side(side: int) -> Surface:
    """The map at `side` x `side` pixels; the same Moon at every size, with as much detail as it can hold."""
    sea = _seas(side)
    albedo = _albedo(side, sea)
    height = (0.004 * _cloud(side, 5.0, 31) * (1.0 - sea) - 0.002 * sea).astype(numpy.float32)
    height += 0.0018 * _cloud(side, 28.0, 32) * (1.0 - 0.85 * sea)
    _add_craters(albedo, height, sea)
    streaks = _rays(side) * (0.75 + 0.45 * _cloud(side, 14.0, 51)).clip(0.15, 1.4)
    albedo += streaks.clip(0.0, 0.9) * (1.0 - albedo)
    warmth = 0.6 * _cloud(side, 3.0, 41) - 0.5 * sea
    _map_points.cache_clear()
    return Surface(albedo.clip(0.0, 1.0), height, warmth.astype(numpy.float32))


def map_coordinates(x: Array, y: Array, z: Array, side: int) -> tuple[Array, Array]:
    """Map pixels (column, row) of points on the unit sphere; x points east, y north, z to the Earth."""
    scale = side / (2.0 * REACH) / numpy.sqrt(numpy.maximum(1.0 + z, 0.05))
    middle = (side - 1) / 2.0
    return middle + x * scale, middle - y * scale


def _pixel(side: int) -> float:
    """Radians that a pixel spans at the centre of the map."""
    return 2.0 * REACH / side * 2.0**0.5


@lru_cache(maxsize=16)
def _map_points(side: int) -> Array:
    """(side, side, 3): the points of the unit sphere under the map's pixels."""
    axis = (numpy.arange(side, dtype=numpy.float32) + 0.5) * (2.0 * REACH / side) - REACH
    u, v = numpy.meshgrid(axis, -axis)
    square = numpy.minimum(u * u + v * v, 1.98)
    stretch = numpy.sqrt(2.0 - square)
    return numpy.stack([u * stretch, v * stretch, 1.0 - square], axis=-1).astype(numpy.float32)


def _enlarged(layer: Array, side: int) -> Array:
    from PIL import Image

    if layer.shape[0] == side:
        return layer
    return numpy.asarray(Image.fromarray(layer).resize((side, side), Image.Resampling.BICUBIC))


def _direction(longitude: float, latitude: float) -> Array:
    lon, lat = numpy.radians([longitude, latitude])
    point = [numpy.cos(lat) * numpy.sin(lon), numpy.sin(lat), numpy.cos(lat) * numpy.cos(lon)]
    return numpy.array(point, dtype=numpy.float32)


def _noise(points: Array, frequency: float, seed: int) -> Array:
    """Value noise in -1 to 1 in space, smooth over 1 / frequency radii."""
    size = 64
    lattice = numpy.random.Generator(numpy.random.PCG64([_WORLD_SEED, seed])).uniform(-1.0, 1.0, size**3)
    lattice = lattice.astype(numpy.float32)
    place = points * numpy.float32(frequency) + numpy.float32(17.3)
    corner = numpy.floor(place)
    part = place - corner
    part = part * part * (3.0 - 2.0 * part)
    low = corner.astype(numpy.int32) & (size - 1)
    high = (low + 1) & (size - 1)
    xs, ys, zs = ([low[..., i], high[..., i]] for i in range(3))
    fx, fy, fz = part[..., 0], part[..., 1], part[..., 2]

    def row(y: Array, z: Array) -> Array:
        base = (z * size + y) * size
        left, right = lattice[base + xs[0]], lattice[base + xs[1]]
        return left + (right - left) * fx

    def plane(z: Array) -> Array:
        lower, upper = row(ys[0], z), row(ys[1], z)
        return lower + (upper - lower) * fy

    near, far = plane(zs[0]), plane(zs[1])
    return near + (far - near) * fz


def _cloud(side: int, frequency: float, seed: int, gain: float = 0.55) -> Array:
    """(side, side) noise of doubling frequency and falling amplitude, as fine as the map; about -1 to 1."""
    total = numpy.zeros((side, side), dtype=numpy.float32)
    amplitude, octave = 1.0, 0
    while octave < 7 and (octave == 0 or frequency * _pixel(side) < 0.5):
        # slow octaves are computed on a coarse map: smooth as they are, enlarging loses nothing
        coarse = min(side, 32 * round(0.5 + 10.0 * frequency / 32))
        octave_noise = _noise(_map_points(coarse), frequency, seed * 16 + octave)
        total += numpy.float32(amplitude) * _enlarged(octave_noise, side)
        amplitude, frequency, octave = amplitude * gain, frequency * 2.03, octave + 1
    return total


def _smooth_step(low: float, high: float, values: Array) -> Array:
    part = ((values - low) / (high - low)).clip(0.0, 1.0)
    return part * part * (3.0 - 2.0 * part)


def _seas(side: int) -> Array:
    """How much of every point is sea, 0 to 1. Their shores are bent by noise, as lava follows the ground."""
    coarse = min(side, _COARSE)
    bend = numpy.stack([_cloud(coarse, 3.5, seed, gain=0.6) for seed in (11, 12, 13)], axis=-1)
    bent = _map_points(coarse) + numpy.float32(0.06) * bend
    bent /= numpy.linalg.norm(bent, axis=-1, keepdims=True)
    union = numpy.zeros((coarse, coarse), dtype=numpy.float32)
    darkness = numpy.zeros_like(union)
    for longitude, latitude, radius, dark in _SEAS:
        angle = numpy.arccos((bent @ _direction(longitude, latitude)).clip(-1.0, 1.0))
        # neighbours flow together where the sum of their falling weights is high enough
        weight = numpy.exp(5.0 * (1.0 - angle / numpy.float32(numpy.radians(radius))).clip(-1.2, 1.0))
        weight = numpy.maximum(weight - 0.01, 0.0)
        union += weight
        darkness += numpy.float32(dark) * weight
    darkness /= union + numpy.float32(1e-6)
    depth = _enlarged(numpy.log(union + numpy.float32(1e-3)) / 5.0, side)
    depth = depth + 0.16 * _cloud(side, 9.0, 14, gain=0.65)
    return (_enlarged(darkness, side) * _smooth_step(-0.14, 0.26, depth)).clip(0.0, 1.0)


def _albedo(side: int, sea: Array) -> Array:
    highland = 0.56 + 0.055 * _cloud(side, 2.5, 21) + 0.06 * _cloud(side, 18.0, 22, gain=0.7)
    lava = 0.25 + 0.05 * _cloud(side, 4.0, 23) + 0.022 * _cloud(side, 30.0, 24)
    return (highland + (lava - highland) * sea).astype(numpy.float32)


def _random_craters(pixel: float) -> Array:
    """(n, 6): direction, radius in radians, freshness and depth in 0 to 1; none smaller than the map shows.

    Their number falls with the square of their size, as counted on the Moon.
    """
    generator = numpy.random.Generator(numpy.random.PCG64([_WORLD_SEED, 7]))
    count = 14000
    direction = generator.normal(size=(count, 3))
    direction[:, 2] = numpy.abs(direction[:, 2])
    direction /= numpy.linalg.norm(direction, axis=1, keepdims=True)
    radius = numpy.minimum(0.0031 / numpy.sqrt(numpy.linspace(1.0, 0.0, count, endpoint=False)), 0.05)
    fresh, depth = generator.uniform(size=count) ** 3, generator.uniform(0.2, 1.0, size=count)
    return numpy.column_stack([direction, radius, fresh, depth])[radius > 0.8 * pixel]


def _add_craters(albedo: Array, height: Array, sea: Array) -> None:
    side = albedo.shape[0]
    points, pixel = _map_points(side), _pixel(side)
    named = [(*_direction(lon, lat), numpy.radians(radius), 0.1, 0.7) for lon, lat, radius in _LARGE]
    named += [(*_direction(lon, lat), numpy.radians(radius), 0.6, 1.0) for lon, lat, radius, _, _ in _RAYED]
    for *centre, radius, fresh, depth in (*_random_craters(pixel), *named):
        column, row = (int(round(float(at))) for at in map_coordinates(*centre, side))
        if not (0 <= column < side and 0 <= row < side):
            continue
        # lava has drowned most of what lay in the seas, but not what fell into them later
        if sea[row, column] > 0.4 and radius > 0.004 and fresh < 0.3:
            continue
        half = int(2.6 * radius / pixel * 1.42) + 2
        window = (slice(max(0, row - half), row + half + 1), slice(max(0, column - half), column + half + 1))
        offset = points[window] - numpy.array(centre, dtype=numpy.float32)
        ratio = numpy.sqrt(numpy.einsum("...i,...i->...", offset, offset)) / numpy.float32(radius)
        height[window] += _crater(ratio, float(radius), float(depth))
        halo = numpy.exp(-((ratio / (1.0 + 1.2 * fresh)) ** 2)) * (0.015 + 0.2 * fresh**2)
        albedo[window] += (halo * (1.0 - albedo[window])).astype(numpy.float32)


def _crater(ratio: Array, radius: float, depth: float) -> Array:
    """Height of a crater, in radii of the Moon, at `ratio` of its own radius from its centre."""
    # large craters are flatter than small ones, and have a level floor with a peak in its middle
    deep = 0.30 * depth * radius * min(1.0, 0.02 / radius) ** 0.5
    floor = -0.55 if radius > 0.02 else -0.85
    bowl = numpy.maximum(numpy.minimum(ratio, 1.0) ** 2.6 - 1.0, floor)
    rim = 0.34 * numpy.exp(-(((ratio - 1.0) / numpy.where(ratio < 1.0, 0.16, 0.42)) ** 2))
    peak = 0.35 * numpy.exp(-((ratio / 0.14) ** 2)) if radius > 0.016 else 0.0
    return (deep * (bowl + rim + peak)).astype(numpy.float32)


def _rays(side: int) -> Array:
    """Bright streaks that run away from young craters along great circles, of many lengths; 0 to about 1."""
    coarse = min(side, _COARSE)
    points = _map_points(coarse).reshape(-1, 3)
    rays = numpy.zeros(coarse * coarse, dtype=numpy.float32)
    for number, (longitude, latitude, radius, length, bright) in enumerate(_RAYED):
        centre = _direction(longitude, latitude)
        near = numpy.flatnonzero(points @ centre > numpy.cos(numpy.radians(min(2.0 * length, 100.0))))
        angle, bearing = _polar(points[near], centre)
        system = _ray_system(angle, bearing, numpy.radians(radius), numpy.radians(length), number)
        rays[near] += numpy.float32(bright) * system
    return _enlarged(rays.reshape(coarse, coarse), side)


def _polar(points: Array, centre: Array) -> tuple[Array, Array]:
    """Angular distance and bearing, in radians, of points of the sphere seen from one of them."""
    east = numpy.cross(numpy.array([0.0, 1.0, 0.0], dtype=numpy.float32), centre)
    east /= numpy.linalg.norm(east)
    angle = numpy.arccos((points @ centre).clip(-1.0, 1.0))
    return angle, numpy.arctan2(points @ east, points @ numpy.cross(centre, east))


def _ray_system(angle: Array, bearing: Array, radius: float, length: float, seed: int) -> Array:
    generator = numpy.random.Generator(numpy.random.PCG64([_WORLD_SEED, 5, seed]))
    streaks = numpy.zeros_like(angle)
    for _ in range(26):
        towards, reach = generator.uniform(-numpy.pi, numpy.pi), length * generator.uniform(0.15, 1.0) ** 1.3
        width = radius * generator.uniform(0.35, 0.8) + 0.06 * angle * generator.uniform(0.3, 1.0)
        across = numpy.sin(angle) * (numpy.mod(bearing - towards + numpy.pi, 2 * numpy.pi) - numpy.pi)
        strength = generator.uniform(0.3, 1.0) * numpy.exp(-((angle / reach) ** 2) - (across / width) ** 2)
        streaks = numpy.maximum(streaks, strength)
    apron = 0.9 * numpy.exp(-((angle / (2.2 * radius)) ** 2))
    haze = 0.35 * numpy.exp(-((angle / (0.22 * length)) ** 2))
    return (streaks + apron + haze).astype(numpy.float32)
