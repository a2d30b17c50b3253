"""Captioned procedural scenes: the world the demo model knows.

A scene is a sky (day, sunset or night), perhaps a Moon or a Sun, perhaps clouds and stars, and perhaps something on
the ground. The caption names every element that is drawn and none that is not, so a prompt means what it says.
The Moon here is a plain disc in a picture-book style: photographs of it are left for a LoRA to teach.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

SUPERSAMPLE = 2
TIMES = ("day", "night", "sunset")
GROUNDS = ("none", "sea", "pines", "mountains", "desert", "snow", "hills")
GROUND_WORDS = {
    "sea": ("sea", "ocean", "sea"),
    "pines": ("pine trees", "pines", "pine forest"),
    "mountains": ("mountains", "mountain", "mountains"),
    "desert": ("desert", "sand dunes", "desert"),
    "snow": ("snow", "snowy field", "snow"),
    "hills": ("green hills", "hills", "grass hills"),
}
PHASES = ("full", "crescent", "half", "any")


@dataclass(frozen=True)
class Scene:
    """What is in a picture. ``light`` is 'moon', 'sun' or 'none'; positions and sizes are fractions of the width."""

    time: str
    ground: str
    light: str
    phase: str
    clouds: bool
    x: float
    y: float
    radius: float
    seed: int


def draw_scene_plan(rng: np.random.Generator) -> Scene:
    """Draw one scene; combinations that a reader would find odd (a Sun at night) are left out."""
    light = rng.choice(["moon", "sun", "none"], p=[0.45, 0.27, 0.28])
    if light == "moon":
        time = rng.choice(["night", "sunset"], p=[0.92, 0.08])
    elif light == "sun":
        time = rng.choice(["day", "sunset"], p=[0.62, 0.38])
    else:
        time = rng.choice(["day", "night", "sunset"], p=[0.45, 0.38, 0.17])
    ground = rng.choice(GROUNDS, p=[0.2 if light != "none" else 0.06] + [(0.8 if light != "none" else 0.94) / 6] * 6)
    top_heavy = ground != "none"
    return Scene(
        time=str(time),
        ground=str(ground),
        light=str(light),
        phase=str(rng.choice(PHASES, p=[0.4, 0.2, 0.1, 0.3])),
        clouds=bool(rng.random() < 0.25),
        x=float(rng.uniform(0.25, 0.75)),
        y=float(rng.uniform(0.2, 0.36) if top_heavy else rng.uniform(0.35, 0.6)),
        radius=float(rng.uniform(0.09, 0.16) if top_heavy else rng.uniform(0.13, 0.24)),
        seed=int(rng.integers(2**31)),
    )


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """Words for a scene, in one of several orders and forms."""
    light = scene.light
    if light == "moon" and scene.phase != "any":
        light = f"{scene.phase} moon"
    ground = rng.choice(GROUND_WORDS[scene.ground]) if scene.ground != "none" else ""
    if scene.light != "none" and ground:
        subject = str(rng.choice([f"{light} over {ground}", f"{light}, {ground}", f"{ground} and {light}"]))
    elif scene.light != "none":
        subject = light
    else:
        subject = ground or "sky"
    if scene.clouds:
        subject = str(rng.choice([f"{subject}, clouds", f"{subject} with clouds"]))
    # a Moon is nearly always at night and a Sun at day: the time may then stay unsaid
    say_time = rng.random() < (0.5 if scene.light != "none" and scene.time != "sunset" else 0.85)
    if say_time:
        subject = str(rng.choice([f"{subject} at {scene.time}", f"{subject}, {scene.time}"]))
    return str(rng.choice(["", "", "a photo of ", "a picture of ", "the "])) + subject


def _noise(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """Smooth noise in [0, 1], (size, size) float32, with about ``cells`` bumps a side."""
    coarse = Image.fromarray(rng.random((cells + 1, cells + 1)).astype(np.float32))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))


def _ridge(rng: np.random.Generator, size: int, base: float, height: float, cells: int) -> np.ndarray:
    """A skyline: for each column the y at which the ground begins, (size,) in pixels."""
    points = rng.random(cells + 1)
    x = np.linspace(0, cells, size)
    return size * (base - height * np.interp(x, np.arange(cells + 1), points))


SKIES = {
    "day": (((70, 130, 215), (165, 210, 245)), ((90, 155, 230), (200, 226, 246))),
    "night": (((6, 9, 28), (24, 32, 72)), ((3, 5, 16), (14, 20, 48))),
    "sunset": (((58, 44, 104), (250, 140, 70)), ((90, 60, 120), (246, 170, 96))),
}


def _sky(rng: np.random.Generator, scene: Scene, size: int) -> np.ndarray:
    (top_a, low_a), (top_b, low_b) = SKIES[scene.time]
    mix = rng.random()
    top = np.array(top_a) * mix + np.array(top_b) * (1 - mix)
    low = np.array(low_a) * mix + np.array(low_b) * (1 - mix)
    t = np.linspace(0, 1, size)[:, None, None] ** 1.2
    image = np.broadcast_to(top * (1 - t) + low * t, (size, size, 3)).copy()
    if scene.time == "night":
        _draw_stars(rng, image, size)
    return image


def _draw_stars(rng: np.random.Generator, image: np.ndarray, size: int) -> None:
    dot = 3
    for _ in range(int(rng.integers(8, 20))):
        y, x = rng.integers(0, size - dot, 2)
        image[y : y + dot, x : x + dot] = 140 + 100 * rng.random()


def _blend(image: np.ndarray, colour: np.ndarray, alpha: np.ndarray) -> None:
    image += (colour - image) * alpha[..., None]


def _draw_light(rng: np.random.Generator, scene: Scene, image: np.ndarray, size: int) -> None:
    yy, xx = np.mgrid[0:size, 0:size].astype(np.float32)
    r = scene.radius * size
    u, v = (xx - scene.x * size) / r, (yy - scene.y * size) / r
    distance = np.sqrt(u * u + v * v)
    edge = np.clip((1 - distance) * r / 1.5 + 0.5, 0, 1)
    if scene.light == "sun":
        glow = np.exp(-np.clip(distance - 1, 0, None) * 1.6) * 0.55
        _blend(image, np.array([255.0, 214, 120]), glow)
        _blend(image, np.array([255.0, 232, 90] if scene.time == "day" else [255.0, 176, 60]), edge)
        return
    glow = np.exp(-np.clip(distance - 1, 0, None) * 2.2) * np.where(distance < 1, 0.06, 0.28)
    _blend(image, np.array([150.0, 165, 205]), glow)
    if scene.phase == "crescent":
        edge = edge * np.clip((np.hypot(u - 0.55, v + 0.1) - 0.95) * r / 1.5 + 0.5, 0, 1)
    elif scene.phase == "half":
        edge = edge * np.clip(-u * r / 1.5 + 0.5, 0, 1)
    spots = np.clip((_noise(rng, size, 9) - 0.55) * 4, 0, 1) * 0.16
    face = np.array([240.0, 236, 216]) * (1 - spots[..., None])
    _blend(image, face, edge)


def _draw_clouds(rng: np.random.Generator, scene: Scene, image: np.ndarray, size: int) -> None:
    field = 0.6 * _noise(rng, size, 4) + 0.4 * _noise(rng, size, 9)
    height = np.linspace(0, 1, size)[:, None]
    band = np.exp(-(((height - rng.uniform(0.15, 0.4)) / 0.12) ** 2))
    colour = {"day": [250, 250, 252], "night": [52, 60, 92], "sunset": [250, 190, 150]}[scene.time]
    _blend(image, np.array(colour, float), np.clip((field - 0.42) * 5, 0, 0.9) * band)


def _tint(scene: Scene, colour: tuple[int, int, int]) -> np.ndarray:
    """The colour of a thing lit by the scene's sky."""
    scale = {"day": (1.0, 1.0, 1.0), "night": (0.3, 0.35, 0.52), "sunset": (0.72, 0.5, 0.48)}[scene.time]
    return np.array(colour, float) * np.array(scale)


def _fill_below(image: np.ndarray, line: np.ndarray, colour: np.ndarray) -> None:
    rows = np.arange(image.shape[0])[:, None]
    _blend(image, colour, np.clip(rows - line[None, :] + 0.5, 0, 1))


def _draw_sea(rng: np.random.Generator, scene: Scene, image: np.ndarray, size: int) -> None:
    horizon = int(size * rng.uniform(0.55, 0.66))
    depth = np.linspace(0, 1, size - horizon)[:, None, None]
    near, far = _tint(scene, (16, 74, 128)), _tint(scene, (64, 148, 190))
    water = np.broadcast_to(far * (1 - depth) + near * depth, (size - horizon, size, 3)).copy()
    rows = np.arange(size - horizon)[:, None]
    waves = np.sin(rows * rng.uniform(0.5, 0.8) + 5 * _noise(rng, size, 5)[: size - horizon]) > 0.75
    water[waves] *= 1.18
    if scene.light != "none":
        column = np.exp(-(((np.arange(size) / size - scene.x) / (0.05 + 0.09 * depth[..., 0])) ** 2))
        shine = column * (0.5 + 0.5 * np.sin(rows * 0.9)) * 0.65
        colour = np.array([225.0, 225, 215] if scene.light == "moon" else [255.0, 214, 130])
        _blend(water, colour, np.broadcast_to(shine, water.shape[:2]))
    image[horizon:] = water


def _draw_pines(rng: np.random.Generator, scene: Scene, image: np.ndarray, size: int) -> None:
    _fill_below(image, _ridge(rng, size, 0.86, 0.05, 4), _tint(scene, (38, 62, 34)))
    yy, xx = np.mgrid[0:size, 0:size].astype(np.float32)
    for x in np.sort(rng.uniform(0, 1, int(rng.integers(6, 11)))):
        height, foot = rng.uniform(0.26, 0.46), rng.uniform(0.88, 0.98)
        t = (yy / size - (foot - height)) / height
        saw = 0.62 + 0.38 * ((t * 5) % 1)
        half_width = np.clip(t, 0, 1) * height * 0.27 * saw
        inside = (np.abs(xx / size - x) < half_width) & (t > 0) & (t < 1)
        image[inside] = _tint(scene, (26, 68, 40)) * rng.uniform(0.75, 1.15)


def _draw_mountains(rng: np.random.Generator, scene: Scene, image: np.ndarray, size: int) -> None:
    yy = np.arange(size)[:, None]
    for base, height, colour in ((0.7, 0.3, (128, 140, 165)), (0.88, 0.34, (84, 92, 112))):
        line = _ridge(rng, size, base, height, int(rng.integers(4, 7)))
        _fill_below(image, line, _tint(scene, colour))
        cap = (yy > line) & (yy < line + np.clip(np.percentile(line, 40) - line, 0, None) * 0.6)
        image[cap] = _tint(scene, (238, 242, 250))
    _fill_below(image, _ridge(rng, size, 0.93, 0.04, 3), _tint(scene, (66, 92, 62)))


def _draw_smooth(rng: np.random.Generator, scene: Scene, image: np.ndarray, size: int) -> None:
    """Rounded land: desert dunes, snow fields and green hills differ by colour and number of layers."""
    colour, layers = {
        "desert": ((222, 178, 108), 3),
        "snow": ((236, 242, 250), 2),
        "hills": ((86, 160, 70), 3),
    }[scene.ground]
    x = np.linspace(0, 2 * np.pi, size)
    for layer in range(layers):
        wave = np.sin(x * rng.uniform(0.6, 1.4) + rng.uniform(0, 6.3)) * rng.uniform(0.03, 0.07)
        line = size * (0.66 + 0.12 * layer + wave)
        shade = 0.82 + 0.18 * (layer + 1) / layers
        lit = np.minimum(
            _tint(scene, colour) * shade * (1.5 if scene.ground == "snow" and scene.time == "night" else 1), 255
        )
        _fill_below(image, line, lit)


def render(scene: Scene, size: int = 128) -> np.ndarray:
    """Draw a scene as (size, size, 3) uint8 RGB; the same scene always gives the same pixels."""
    rng = np.random.default_rng(scene.seed)
    big = size * SUPERSAMPLE
    image = _sky(rng, scene, big)
    if scene.light != "none":
        _draw_light(rng, scene, image, big)
    if scene.clouds:
        _draw_clouds(rng, scene, image, big)
    draw = {"sea": _draw_sea, "pines": _draw_pines, "mountains": _draw_mountains}.get(scene.ground, _draw_smooth)
    if scene.ground != "none":
        draw(rng, scene, image, big)
    full = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
    return np.asarray(full.resize((size, size), Image.Resampling.BOX))


def scenes(count: int, seed: int, size: int = 128) -> tuple[np.ndarray, list[str]]:
    """``count`` scenes: pixels (count, size, size, 3) uint8 and their captions."""
    rng = np.random.default_rng(seed)
    plans = [draw_scene_plan(rng) for _ in range(count)]
    return np.stack([render(plan, size) for plan in plans]), [caption(plan, rng) for plan in plans]


def textured_disc(rng: np.random.Generator, size: int = 128) -> np.ndarray:
    """A rough grey ball on black, (size, size, 3) uint8.

    For the autoencoder alone, which must be able to show surfaces that the scenes do not have; the U-Net never
    sees one.
    """
    yy, xx = np.mgrid[0:size, 0:size].astype(np.float32) / size
    radius = rng.uniform(0.25, 0.6)
    u, v = (xx - rng.uniform(0.4, 0.6)) / radius, (yy - rng.uniform(0.4, 0.6)) / radius
    inside = np.clip((1 - np.hypot(u, v)) * radius * size + 0.5, 0, 1)
    rough = sum(_noise(rng, size, cells) / (1 + i) for i, cells in enumerate((4, 9, 20, 45)))
    angle, shift = rng.uniform(0, 6.3), rng.uniform(-1.2, 0.9)
    light = np.clip((u * np.cos(angle) + v * np.sin(angle) - shift) * rng.uniform(1, 4), 0, 1)
    grey = inside * light * (0.25 + 0.75 * (rough - rough.min()) / np.ptp(rough))
    tint = 1 + rng.uniform(-0.08, 0.08, 3)
    return np.clip(grey[..., None] * tint * rng.uniform(180, 255), 0, 255).astype(np.uint8)
