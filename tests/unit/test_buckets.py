"""Where images of every size end up, against the numbers of kohya's sd-scripts."""

from __future__ import annotations

import pytest
from pack.trainer.dataset.buckets import BucketSettings, bucket_list, place, told_crop
from pack.trainer.errors import SettingsError

# image -> resized, bucket, (top, left) told to the model; 1024x1024, step 64, no_upscale
KOHYA_VECTORS = [
    ((1000, 1000), (1000, 1000), (960, 960), (0, 0)),
    ((3000, 2000), (1248, 832), (1216, 832), (10, 0)),
    ((2000, 3000), (832, 1248), (832, 1216), (0, 10)),
    ((4032, 3024), (1109, 832), (1088, 832), (8, 0)),
    ((1920, 1080), (1365, 768), (1344, 768), (6, 0)),
    ((1050, 1080), (960, 987), (960, 960), (0, 13)),
    ((800, 600), (800, 600), (768, 576), (0, 0)),
]


@pytest.mark.parametrize(("image", "resized", "bucket", "told"), KOHYA_VECTORS)
def test_without_enlarging_an_image_lands_where_kohya_puts_it(image, resized, bucket, told) -> None:
    placement = place(*image, BucketSettings())
    assert placement.resized == resized
    assert placement.bucket == bucket
    assert told_crop(image, placement) == told


def test_the_true_crop_is_central_and_not_the_one_that_is_told() -> None:
    placement = place(3000, 2000, BucketSettings())
    assert placement.crop == (16, 0)
    assert told_crop((3000, 2000), placement) == (10, 0)
    assert placement.kept == pytest.approx(1216 / 1248)


# image -> resized, bucket, when images may be enlarged: the bucket of the nearest aspect ratio is filled
ENLARGING = [
    ((1024, 1024), (1024, 1024), (1024, 1024)),
    ((100, 100), (1024, 1024), (1024, 1024)),
    ((3000, 2000), (1248, 832), (1216, 832)),
    ((2000, 3000), (832, 1248), (832, 1216)),
    ((800, 600), (1195, 896), (1152, 896)),
    ((1920, 1080), (1365, 768), (1344, 768)),
    ((1216, 832), (1216, 832), (1216, 832)),
    ((4000, 400), (2560, 256), (2048, 256)),
]


@pytest.mark.parametrize(("image", "resized", "bucket"), ENLARGING)
def test_with_enlarging_an_image_fills_the_bucket_of_the_nearest_aspect_ratio(image, resized, bucket) -> None:
    placement = place(*image, BucketSettings(no_upscale=False))
    assert (placement.resized, placement.bucket) == (resized, bucket)


def test_the_buckets_for_enlarging_keep_to_area_step_and_range() -> None:
    settings = BucketSettings(no_upscale=False)
    buckets = bucket_list(settings)
    assert (1024, 1024) in buckets
    assert (256, 2048) in buckets and (2048, 256) in buckets
    assert list(buckets) == sorted(set(buckets))
    for width, height in buckets:
        assert width * height <= settings.area
        assert width % 64 == height % 64 == 0
        assert min(width, height) >= 256 and max(width, height) <= 2048


# image -> resized, bucket, with buckets switched off at 512x768
COVERING = [
    ((1000, 1500), (512, 768), (0, 0)),
    ((1000, 1000), (768, 768), (128, 0)),
    ((100, 1000), (512, 5120), (0, 2176)),
]


@pytest.mark.parametrize(("image", "resized", "crop"), COVERING)
def test_without_buckets_an_image_covers_the_resolution_and_is_cropped_in_its_middle(image, resized, crop) -> None:
    placement = place(*image, BucketSettings(resolution=(512, 768), enabled=False))
    assert placement.resized == resized
    assert placement.bucket == (512, 768)
    assert placement.crop == crop


# images that kohya would give a bucket of size 0
TINY_OR_THIN = [
    ((40, 40), (64, 64), (64, 64)),
    ((1, 1), (64, 64), (64, 64)),
    ((40, 80), (64, 128), (64, 128)),
    ((1000, 30), (2133, 64), (2112, 64)),
    ((100_000, 20), (320_000, 64), (16_384, 64)),
    ((20, 100_000), (64, 320_000), (64, 16_384)),
]


@pytest.mark.parametrize(("image", "resized", "bucket"), TINY_OR_THIN)
def test_an_image_thinner_than_a_step_is_enlarged_to_one(image, resized, bucket) -> None:
    placement = place(*image, BucketSettings())
    assert (placement.resized, placement.bucket) == (resized, bucket)


SIZES = [(w, h) for w in (1, 63, 64, 65, 500, 1024, 1999, 9000) for h in (1, 64, 127, 777, 1024, 5000)]


@pytest.mark.parametrize("resolution", [(64, 64), (100, 100), (128, 128), (1024, 1024), (640, 1536)])
@pytest.mark.parametrize("no_upscale", [True, False])
@pytest.mark.parametrize("image", SIZES)
def test_every_bucket_is_inside_the_resized_image_and_within_the_area(image, no_upscale, resolution) -> None:
    settings = BucketSettings(resolution=resolution, min_size=64, no_upscale=no_upscale)
    placement = place(*image, settings)
    width, height = placement.bucket
    assert width % 64 == height % 64 == 0
    assert min(width, height) >= 64
    assert width * height <= settings.area
    for start, side, whole in zip(placement.crop, placement.bucket, placement.resized, strict=True):
        assert start >= 0 and start + side <= whole


@pytest.mark.parametrize("image", SIZES)
def test_nothing_is_enlarged_unless_it_is_thinner_than_a_step(image) -> None:
    placement = place(*image, BucketSettings())
    if min(image) >= 64 and max(image) / min(image) < 256:
        assert placement.resized[0] <= image[0] and placement.resized[1] <= image[1]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"step": 0}, "step 0 must be a multiple of 32"),
        ({"step": -64}, "step -64 must"),
        ({"step": 48}, "step 48 must"),
        ({"resolution": (0, 1024)}, "resolution 0x1024 must be at least 64"),
        ({"resolution": (1024, 63)}, "resolution 1024x63 must be at least 64"),
        ({"resolution": (500, 512), "enabled": False}, "resolution 500x512 must be a multiple of 8"),
        ({"min_size": 300, "no_upscale": False}, "smallest bucket side 300 must be a multiple of 64"),
        ({"max_size": 2000, "no_upscale": False}, "largest bucket side 2000 must be a multiple of 64"),
        ({"max_size": 960, "no_upscale": False}, "largest bucket side 960 must reach"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(wrong, says) -> None:
    with pytest.raises(SettingsError, match=says):
        BucketSettings(**wrong)


def test_the_range_of_sides_is_not_asked_about_where_it_means_nothing() -> None:
    assert BucketSettings(resolution=(128, 128), min_size=300, max_size=100).area == 128 * 128


@pytest.mark.parametrize("image", [(0, 100), (100, 0), (-1, 5)])
def test_an_image_without_pixels_has_no_bucket(image) -> None:
    with pytest.raises(ValueError, match="has no bucket"):
        place(*image, BucketSettings())
