"""Image files of every usual kind, and of every unusual one, become RGB pictures or one sentence."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from pack.trainer.dataset.buckets import BucketSettings, Placement, place
from pack.trainer.dataset.images import IMAGE_EXTENSIONS, apply_placement, count_frames, load_rgb, read_size
from pack.trainer.errors import ImageError
from PIL import Image

ORIENTATION = 0x0112


def picture(width: int = 24, height: int = 16) -> Image.Image:
    """A picture without symmetry: red grows to the right, green downwards, blue marks the corner."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.linspace(0, 240, width)[None, :]
    pixels[..., 1] = np.linspace(0, 240, height)[:, None]
    pixels[:4, :4, 2] = 255
    return Image.fromarray(pixels)


def values(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=np.int32)


def saved(folder: Path, image: Image.Image, name: str, **options: object) -> Path:
    image.save(folder / name, **options)
    return folder / name


def png_of_16_bits(path: Path, colour_type: int, samples: np.ndarray) -> Path:
    """Writes (height, width, channels) 16-bit samples as PNG; Pillow cannot write such colour."""
    height, width = samples.shape[:2]

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    return path


@pytest.mark.parametrize("extension", [".png", ".bmp", ".tif", ".tiff"])
def test_a_lossless_file_comes_back_as_it_was(tmp_path, extension) -> None:
    path = saved(tmp_path, picture(), "a" + extension)
    assert load_rgb(path).mode == "RGB"
    assert np.array_equal(values(load_rgb(path)), values(picture()))


@pytest.mark.parametrize("extension", [".jpg", ".jpeg", ".jfif", ".webp", ".gif", ".avif"])
def test_a_lossy_file_comes_back_nearly_as_it_was(tmp_path, extension) -> None:
    smooth = picture(96, 64)
    path = saved(tmp_path, smooth, "a" + extension, **({"format": "JPEG"} if extension == ".jfif" else {}))
    assert abs(values(load_rgb(path)) - values(smooth)).mean() < 6


def test_every_extension_that_is_scanned_for_is_tested_above() -> None:
    tested = {".png", ".bmp", ".tif", ".tiff", ".jpg", ".jpeg", ".jfif", ".webp", ".gif", ".avif"}
    assert set(IMAGE_EXTENSIONS) == tested


def test_cmyk_becomes_rgb(tmp_path) -> None:
    path = saved(tmp_path, Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "red.jpg", quality=95)
    red, green, blue = load_rgb(path).getpixel((4, 4))
    assert red > 200 and green < 60 and blue < 60


def test_greyscale_of_16_bits_is_scaled_and_not_clipped_to_white(tmp_path) -> None:
    ramp = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (8, 1))
    for path in (
        saved(tmp_path, Image.fromarray(ramp), "ramp.png"),
        saved(tmp_path, Image.fromarray(ramp), "ramp.tif"),
    ):
        grey = values(load_rgb(path))
        assert np.array_equal(grey[..., 0], grey[..., 2])
        assert abs(grey[0, :, 0] - ramp[0] / 257).max() <= 0.51


@pytest.mark.parametrize(("colour_type", "channels"), [(2, 3), (6, 4)])
def test_colour_of_16_bits_is_scaled(tmp_path, colour_type, channels) -> None:
    samples = np.full((4, 4, channels), 65535, np.uint16)
    samples[..., :3] = (10_000, 30_000, 60_000)
    rgb = values(load_rgb(png_of_16_bits(tmp_path / "deep.png", colour_type, samples)))
    assert abs(rgb - np.array([10_000, 30_000, 60_000]) / 257).max() <= 1


@pytest.mark.parametrize("largest", [1.0, 300.0])
def test_floating_point_greyscale_keeps_its_range(tmp_path, largest) -> None:
    ramp = np.tile(np.linspace(0, largest, 52, dtype=np.float32), (4, 1))
    ramp[3, 0] = np.nan
    grey = values(load_rgb(saved(tmp_path, Image.fromarray(ramp), "f.tif")))[0, :, 0]
    assert np.array_equal(grey, np.arange(52) * 5)


def test_one_bit_becomes_black_and_white(tmp_path) -> None:
    image = Image.new("1", (8, 8), 0)
    image.putpixel((3, 3), 1)
    rgb = load_rgb(saved(tmp_path, image, "bit.png"))
    assert rgb.getpixel((0, 0)) == (0, 0, 0) and rgb.getpixel((3, 3)) == (255, 255, 255)


def transparent_files(folder: Path) -> list[Path]:
    """Red on the left; on the right blue, hidden by transparency: RGBA, palette and keyed RGB."""
    rgba = Image.new("RGBA", (8, 8), (200, 0, 0, 255))
    rgba.paste((0, 0, 200, 0), (4, 0, 8, 8))
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([200, 0, 0, 0, 0, 200])
    palette.paste(1, (4, 0, 8, 8))
    keyed = Image.new("RGB", (8, 8), (200, 0, 0))
    keyed.paste((0, 0, 200), (4, 0, 8, 8))
    return [
        saved(folder, rgba, "rgba.png"),
        saved(folder, rgba, "rgba.webp", lossless=True),
        saved(folder, palette, "palette.png", transparency=1),
        saved(folder, palette, "palette.gif", transparency=1),
        saved(folder, keyed, "keyed.png", transparency=(0, 0, 200)),
    ]


@pytest.mark.parametrize("background", [(255, 255, 255), (0, 128, 64)])
def test_transparency_shows_the_background(tmp_path, background) -> None:
    for path in transparent_files(tmp_path):
        rgb = load_rgb(path, background=background)
        assert rgb.getpixel((1, 1)) == (200, 0, 0), path.name
        assert rgb.getpixel((6, 6)) == background, path.name


def test_transparency_is_dropped_where_kohya_would_drop_it(tmp_path) -> None:
    image = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
    assert load_rgb(saved(tmp_path, image, "a.png"), background=None).getpixel((0, 0)) == (10, 20, 30)


def test_grey_with_alpha_is_composited(tmp_path) -> None:
    image = Image.new("LA", (4, 4), (0, 128))
    assert load_rgb(saved(tmp_path, image, "la.png")).getpixel((0, 0)) == (127, 127, 127)


def test_of_an_animation_the_first_frame_counts(tmp_path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    for name in ("a.gif", "a.webp", "a.png", "a.tif"):
        options = {"lossless": True} if name.endswith("webp") else {}
        path = saved(tmp_path, frames[0], name, save_all=True, append_images=frames[1:], **options)
        assert load_rgb(path).getpixel((4, 4)) == (250, 0, 0), name
        assert count_frames(path) == 3, name
    assert count_frames(saved(tmp_path, frames[0], "still.gif")) == 1


TURNED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("extension", [".png", ".webp", ".tif"])
@pytest.mark.parametrize("orientation", sorted(TURNED))
def test_exif_turns_the_picture_and_its_size(tmp_path, orientation, extension) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"lossless": True} if extension == ".webp" else {}
    path = saved(tmp_path, picture(), "turned" + extension, exif=exif, **options)
    expected = TURNED[orientation](values(picture()))
    rgb = load_rgb(path)
    assert np.array_equal(values(rgb), expected)
    assert read_size(path) == rgb.size


def test_exif_can_be_ignored_as_kohya_does(tmp_path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    path = saved(tmp_path, picture(), "turned.png", exif=exif)
    assert np.array_equal(values(load_rgb(path, exif_rotate=False)), values(picture()))
    assert read_size(path, exif_rotate=False) == (24, 16)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_broken_exif_is_no_broken_picture(tmp_path) -> None:
    path = saved(tmp_path, picture(), "odd.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\x7fgarbage")
    assert load_rgb(path).size == (24, 16)
    assert read_size(path) == (24, 16)


def truncated(folder: Path, extension: str) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = saved(folder, Image.fromarray(noise), "cut" + extension)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    return path


@pytest.mark.parametrize("extension", [".jpg", ".png", ".webp", ".bmp", ".gif", ".tif", ".avif"])
def test_a_truncated_file_is_an_error_that_names_it(tmp_path, extension) -> None:
    path = truncated(tmp_path, extension)
    with pytest.raises(ImageError, match="cut" + extension) as caught:
        load_rgb(path)
    assert caught.value.path == str(path)
    assert caught.value.reason


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.png", b"", "it is empty"),
        ("text.jpg", b"this is a note, not a photograph", "not an image"),
        ("page.png", b"<html><body>404</body></html>" * 50, "not an image"),
        ("header.png", b"\x89PNG\r\n\x1a\n", ""),
    ],
)
def test_what_is_no_image_is_an_error_with_a_reason(tmp_path, name, content, reason) -> None:
    (tmp_path / name).write_bytes(content)
    for read in (load_rgb, read_size, count_frames):
        with pytest.raises(ImageError, match=name) as caught:
            read(tmp_path / name)
        assert reason in caught.value.reason
        assert str(caught.value).count("\n") == 0


@pytest.mark.parametrize("missing", ["none.png", "."])
def test_a_missing_file_and_a_folder_are_errors(tmp_path, missing) -> None:
    with pytest.raises(ImageError, match="no such file"):
        load_rgb(tmp_path / missing)


@pytest.mark.parametrize("side", [10_000, 60_000])
def test_a_decompression_bomb_is_an_error_and_no_warning(tmp_path, side) -> None:
    path = png_of_16_bits(tmp_path / "bomb.png", 2, np.zeros((1, 1, 3), np.uint16))
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", side, side)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for read in (load_rgb, read_size):
            with pytest.raises(ImageError, match="megapixels"):
                read(path)


@pytest.mark.parametrize("size", [(300, 200), (1000, 1000), (40, 40), (90, 64), (256, 128), (64, 300)])
def test_a_placed_image_has_the_size_of_its_bucket(size) -> None:
    settings = BucketSettings(resolution=(128, 128))
    placement = place(*size, settings)
    assert apply_placement(picture(*size), placement).size == placement.bucket


@pytest.mark.parametrize(
    ("size", "placement", "method"),
    [
        ((256, 128), Placement((128, 64), (64, 64), (32, 0)), Image.Resampling.BOX),
        ((300, 200), Placement((151, 101), (128, 64), (11, 18)), Image.Resampling.HAMMING),
        ((40, 50), Placement((64, 80), (64, 64), (0, 8)), Image.Resampling.LANCZOS),
    ],
)
def test_only_the_crop_is_computed_and_it_equals_resizing_then_cropping(size, placement, method) -> None:
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    left, top = placement.crop
    box = (left, top, left + placement.bucket[0], top + placement.bucket[1])
    reference = noise.resize(placement.resized, method).crop(box)
    assert abs(values(apply_placement(noise, placement)) - values(reference)).max() <= 1


def test_shrinking_averages_over_the_area() -> None:
    checks = np.indices((128, 128)).sum(0) % 2 * 255
    image = Image.fromarray(checks.astype(np.uint8)).convert("RGB")
    shrunk = values(apply_placement(image, Placement((64, 64), (64, 64), (0, 0))))
    assert shrunk.min() >= 127 and shrunk.max() <= 128


def test_an_image_that_is_not_resized_is_only_cropped() -> None:
    placed = apply_placement(picture(100, 90), Placement((100, 90), (64, 64), (18, 13)))
    assert np.array_equal(values(placed), values(picture(100, 90))[13:77, 18:82])


def test_an_extremely_thin_image_can_be_placed() -> None:
    placement = place(100_000, 2, BucketSettings(resolution=(128, 128)))
    assert apply_placement(Image.new("RGB", (100_000, 2)), placement).size == (256, 64)
