"""Small pictures of many images: never more than one image in full at a time, and each decoded once."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_parts
from pack.trainer.dataset.scan import scan_folder
from pack.trainer.dataset.thumbnails import small_pictures, spread
from pack.trainer.errors import Cancelled, ImageError


def test_pictures_are_small_told_of_one_by_one_and_kept_while_the_files_are_the_same(tmp_path: Path) -> None:
    folder = tiny_parts.write_images(tmp_path, 3, size=200)
    samples = scan_folder(folder).samples
    told: list[tuple[int, int]] = []
    pictures = small_pictures(samples, 50, lambda done, of: told.append((done, of)))
    assert [picture.size for picture in pictures] == [(50, 50)] * 3
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert small_pictures(samples, 50, lambda done, of: None) == pictures
    (folder / "disc_1.png").write_bytes((folder / "disc_0.png").read_bytes())
    again = small_pictures(scan_folder(folder).samples, 50, lambda done, of: None)
    assert [left == right for left, right in zip(again, pictures, strict=True)] == [True, False, True]


def test_a_cancel_takes_effect_between_two_images(tmp_path: Path) -> None:
    folder = tiny_parts.write_images(tmp_path, 3)
    samples = scan_folder(folder).samples
    (folder / "disc_2.png").unlink()

    def cancel(done: int, of: int) -> None:
        if done == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        small_pictures(samples, 16, cancel)
    with pytest.raises(ImageError, match=r"disc_2\.png.* there is no such file"):
        small_pictures(samples, 16, lambda done, of: None)


@pytest.mark.parametrize(
    ("count", "places"), [(1, [0]), (2, [0, 3]), (3, [0, 2, 4]), (5, [0, 1, 2, 3, 4]), (9, [0, 1, 2, 3, 4])]
)
def test_samples_are_taken_at_equal_distances(tmp_path: Path, count: int, places: list[int]) -> None:
    samples = scan_folder(tiny_parts.write_images(tmp_path, 5)).samples
    assert [samples.index(sample) for sample in spread(samples, count)] == places
