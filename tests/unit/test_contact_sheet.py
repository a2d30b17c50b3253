"""Thumbnails whole and in proportion, captions short."""

from __future__ import annotations

import pytest
from pack.figures.contact_sheet import contact_sheet
from PIL import Image

RED, BLUE = (200, 30, 30), (30, 30, 200)


def plain(width: int, height: int, colour: tuple[int, int, int] = RED) -> Image.Image:
    return Image.new("RGB", (width, height), colour)


def extent(sheet: Image.Image, colour: tuple[int, int, int]) -> tuple[int, int]:
    """Width and height of what the sheet shows in exactly this colour."""
    mask = Image.eval(sheet.convert("RGB").getchannel(0), lambda value: 255 if value == colour[0] else 0)
    left, top, right, bottom = mask.getbbox() or (0, 0, 0, 0)
    return right - left, bottom - top


@pytest.mark.parametrize(
    ("size", "shown"),
    [((400, 400), (100, 100)), ((400, 200), (100, 50)), ((200, 400), (50, 100)), ((20, 10), (100, 50))],
)
def test_a_thumbnail_keeps_its_proportions(size: tuple[int, int], shown: tuple[int, int]) -> None:
    assert extent(contact_sheet([plain(*size)], [""], thumb=100), RED) == shown


def test_images_follow_in_reading_order() -> None:
    sheet = contact_sheet([plain(8, 8, RED), plain(8, 8, BLUE), plain(8, 8, RED)], [""] * 3, columns=2, thumb=64)
    cell = 64 + 6
    first = 10 + 32
    found = [sheet.getpixel((first + x * cell, first + y * cell)) for y in (0, 1) for x in (0, 1)]
    assert found[:3] == [RED, BLUE, RED] and found[3] == (255, 255, 255)


def test_captions_take_at_most_two_lines() -> None:
    heights = [
        contact_sheet([plain(9, 9)], [caption], thumb=160).height
        for caption in ("", "moon", "moon over the pine trees at night", "moon over the pine trees " * 20)
    ]
    assert heights[0] < heights[1] < heights[2] == heights[3]


def test_a_note_stands_below() -> None:
    without = contact_sheet([plain(9, 9)], [""])
    noted = contact_sheet([plain(9, 9)], [""], note="Slika je pretamna: čćđšž " * 5)
    assert noted.width == without.width and noted.height > without.height + 30


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "I;16"])
def test_images_of_every_mode_are_shown(mode: str) -> None:
    source = Image.new("I;16", (30, 20), 1000) if mode == "I;16" else plain(30, 20).convert(mode)
    assert contact_sheet([source], ["č"], theme="dark").mode == "RGB"


@pytest.mark.parametrize(
    ("images", "captions", "options", "says"),
    [
        (0, 0, {}, "at least one image"),
        (2, 1, {}, "2 images but 1 captions"),
        (1, 1, {"columns": 0}, "columns ≥ 1"),
        (1, 1, {"thumb": 2}, "thumb ≥ 16"),
        (1, 1, {"theme": "pink"}, '"light" or "dark", not "pink"'),
    ],
)
def test_what_cannot_be_drawn_is_said(images: int, captions: int, options: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        contact_sheet([plain(9, 9)] * images, ["x"] * captions, **options)
