"""Masks: from transparency or from the folder `masks`, and what becomes of those that cannot be used."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_parts
import torch
from pack.trainer.dataset.report import dataset_report
from pack.trainer.dataset.scan import scan_folder
from pack.trainer.errors import BrokenImages, ImageError
from pack.trainer.lora.file import read_metadata
from pack.trainer.runs.run import train
from pack.trainer.settings.options import LossSettings
from pack.trainer.training.data import collate, prepare
from pack.trainer.training.latents import LatentsCache
from PIL import Image
from tiny_parts import make_examples, make_job, make_settings

BY_FILES = make_settings(steps=2, train="unet", loss=LossSettings(mask="files"))


def with_alpha(folder: Path, size: int = 64) -> Path:
    """One picture whose right half is transparent, one without transparency."""
    tiny_parts.write_images(folder, 1)
    pixels = np.full((size, size, 4), 200, np.uint8)
    pixels[:, : size // 2, 3], pixels[:, size // 2 :, 3] = 255, 0
    Image.fromarray(pixels).save(folder / "alpha.png")
    return folder


def masks_of(folder: Path, mask: str) -> dict[str, torch.Tensor | None]:
    cache = LatentsCache(folder.parent / "cache", "vae", tiny_parts.encode)
    settings = make_settings(loss=LossSettings(mask=mask))
    examples = prepare(scan_folder(folder), settings, cache, tiny_parts.tokenize, lambda done, of: None)
    return {Path(example.sample.path).name: example.mask for example in examples}


def test_transparency_is_a_mask_where_asked(tmp_path: Path) -> None:
    folder = with_alpha(tmp_path / "images")
    assert set(masks_of(folder, "none").values()) == {None}
    masks = masks_of(folder, "alpha")
    assert masks["disc_0.png"] is None
    assert torch.equal(masks["alpha.png"], torch.cat([torch.ones(1, 8, 4), torch.zeros(1, 8, 4)], dim=2))


def test_pictures_in_the_folder_masks_are_masks(tmp_path: Path) -> None:
    folder = tiny_parts.write_images(tmp_path / "images", 2)
    (folder / "masks").mkdir()
    # of another size than the image: it covers the whole image all the same
    grey = Image.new("L", (32, 32), 0)
    grey.paste(255, (0, 0, 32, 16))
    grey.save(folder / "masks" / "disc_0.jpg", quality=100)
    dataset = scan_folder(folder)
    assert [bool(sample.mask_hash) for sample in dataset.samples] == [True, False]
    assert dataset.num_images == 2
    assert "Masks: 1" in dataset_report(dataset)
    masks = masks_of(folder, "files")
    assert masks["disc_1.png"] is None
    torch.testing.assert_close(masks["disc_0.png"][:, :3], torch.ones(1, 3, 8), atol=0.02, rtol=0)
    torch.testing.assert_close(masks["disc_0.png"][:, 5:], torch.zeros(1, 3, 8), atol=0.02, rtol=0)
    grey.paste(255, (0, 0, 32, 32))
    grey.save(folder / "masks" / "disc_0.jpg")
    assert scan_folder(folder).content_hash != dataset.content_hash


def test_masks_of_some_images_are_stacked_with_white_ones() -> None:
    examples = [replace(example, mask=mask) for example, mask in
                zip(make_examples(2), (None, torch.zeros(1, 8, 8)), strict=True)]  # fmt: skip
    batch = collate(examples, [example.latents.mean for example in examples])
    assert torch.equal(batch.mask, torch.stack([torch.ones(1, 8, 8), torch.zeros(1, 8, 8)]))
    assert collate(make_examples(1), [make_examples(1)[0].latents.mean]).mask is None


@pytest.mark.parametrize("name", ["disc_0.PNG", "disc_0.Tiff", "disc_0.jpg"])
def test_a_mask_may_have_any_ending_of_an_image(tmp_path: Path, name: str) -> None:
    folder = tiny_parts.write_images(tmp_path / "images", 1)
    (folder / "masks").mkdir()
    Image.new("L", (64, 64), 0).save(folder / "masks" / name)
    assert masks_of(folder, "files")["disc_0.png"].max() == 0


@pytest.mark.parametrize(("image", "mask"), [("Moon", "moon"), ("m\u0161", "ms\u030c")])
def test_a_mask_has_its_images_name_as_every_system_reads_it(tmp_path: Path, image: str, mask: str) -> None:
    folder = tiny_parts.write_images(tmp_path / "images", 1)
    (folder / "disc_0.png").rename(folder / f"{image}.png")
    (folder / "masks").mkdir()
    Image.new("L", (64, 64), 0).save(folder / "masks" / f"{mask}.png")
    dataset = scan_folder(folder)
    assert Path(dataset.samples[0].mask).stem == mask
    assert {problem.kind for problem in dataset.problems} == {"caption_missing", "mask_black", "caption_orphan"}
    # the very name goes first
    Image.new("L", (64, 64), 255).save(folder / "masks" / f"{image}.png")
    again = scan_folder(folder)
    assert Path(again.samples[0].mask).stem == image
    assert "mask_orphan" in [problem.kind for problem in again.problems]


def test_a_mask_with_transparency_is_of_another_run_than_before_it_counted(tmp_path: Path) -> None:
    folder = tiny_parts.write_images(tmp_path / "images", 2)
    (folder / "masks").mkdir()
    for number, opacity in enumerate((255, 254)):
        Image.new("RGBA", (64, 64), (255, 255, 255, opacity)).save(folder / "masks" / f"disc_{number}.png")
    opaque, clear = (sample.mask_hash for sample in scan_folder(folder).samples)
    assert len(opaque) == 64 and clear.endswith("+alpha") and len(clear) == 70


@pytest.mark.parametrize("hidden", [(0, 0, 0, 0), (255, 255, 255, 0)])
def test_where_a_mask_is_transparent_nothing_counts(tmp_path: Path, hidden: tuple[int, ...]) -> None:
    folder = tiny_parts.write_images(tmp_path / "images", 1)
    (folder / "masks").mkdir()
    mask = Image.new("RGBA", (64, 64), hidden)
    mask.paste((255, 255, 255, 255), (0, 0, 32, 64))
    mask.save(folder / "masks" / "disc_0.png")
    read = masks_of(folder, "files")["disc_0.png"]
    assert torch.equal(read, torch.cat([torch.ones(1, 8, 4), torch.zeros(1, 8, 4)], dim=2))


def test_the_report_names_masks_that_do_not_do_what_they_seem_to(tmp_path: Path) -> None:
    folder = tiny_parts.write_images(tmp_path / "images", 6)
    masks = folder / "masks"
    masks.mkdir()
    shapes = {"disc_0": (32, 32), "disc_1": (64, 256), "disc_2": (64, 64), "disc_3": (64, 64), "disc_4": (127, 128)}
    for name, size in shapes.items():
        Image.new("L", size, 0 if name == "disc_2" else 255).save(masks / f"{name}.png")
    cut_short(masks / "disc_3.png")
    Image.new("L", (64, 64), 255).save(masks / "nobody.PNG")
    dataset = scan_folder(folder)
    assert {(problem.kind, problem.path) for problem in dataset.problems} == {
        ("mask_aspect", "disc_1.png"),
        ("mask_black", "disc_2.png"),
        ("mask_broken", "disc_3.png"),
        ("mask_missing", "disc_5.png"),
        ("mask_orphan", "masks/nobody.PNG"),
    }
    report = dataset_report(dataset).splitlines()
    for line in (
        "Masks: 4",
        "Masks of another aspect ratio: 1",
        "  disc_1.png: masks/disc_1.png is stretched to cover the image, 64x256 over 64x64 pixels",
        "Masks without an image: 1",
        "Images without a mask, while others have one: 1",
    ):
        assert line in report
    assert any(line.startswith("  disc_3.png: masks/disc_3.png: it is truncated") for line in report)


def test_masks_lie_beside_the_images_of_their_own_folder(tmp_path: Path) -> None:
    for folder in ("2_disc", "1_disc"):
        tiny_parts.write_images(tmp_path / folder, 1)
    tiny_parts.write_images(tmp_path / "2_disc" / "masks", 1)
    tiny_parts.write_images(tmp_path / "masks", 1)
    dataset = scan_folder(tmp_path)
    assert [Path(sample.mask).parent.parent.name for sample in dataset.samples if sample.mask] == ["2_disc"]
    assert [p.path for p in dataset.problems_of("mask_orphan")] == ["masks/disc_0.png"]


@pytest.mark.skipif(os.name == "nt", reason="Windows asks for a privilege to make links")
def test_masks_that_are_links_out_of_the_folder_are_not_read(tmp_path: Path) -> None:
    folder = tiny_parts.write_images(tmp_path / "images", 1)
    (folder / "masks").symlink_to(tiny_parts.write_images(tmp_path / "elsewhere", 1))
    dataset = scan_folder(folder)
    assert dataset.samples[0].mask == ""
    assert [(p.kind, p.path) for p in dataset.problems] == [("outside", "masks")]


def cut_short(mask: Path) -> None:
    mask.write_bytes(mask.read_bytes()[:60])


def edit(mask: Path) -> None:
    Image.new("L", (64, 64), 77).save(mask)


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (cut_short, "it is truncated"),
        (Path.unlink, "there is no such file"),
        (edit, "has changed since the dataset was made"),
    ],
)
def test_an_image_whose_mask_cannot_be_used_is_left_out_and_named(
    tmp_path: Path, harm: Callable[[Path], None], reason: str
) -> None:
    folder = tiny_parts.write_images(tmp_path / "images", 3)
    mask = tiny_parts.write_images(folder / "masks", 3) / "disc_1.png"
    dataset = scan_folder(folder)
    harm(mask)
    job = make_job(tmp_path, BY_FILES, dataset=dataset)
    result = train(job)
    (line,) = [line for line in job.lines if "cannot be used" in line]
    assert line.startswith("1 image cannot be used ('") and "images/disc_1.png': its mask 'disc_1.png'" in line
    assert reason in line
    assert read_metadata(result.path)["ss_num_train_images"] == "2"


def test_an_error_that_names_no_image_of_the_dataset_ends_the_run(tmp_path: Path) -> None:
    tried: list[int] = []

    def encode(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        assert len(tried) < 4, "the run began anew with the same images"
        tried.append(1)
        raise ImageError("/elsewhere.png", "it is another one")

    job = replace(make_job(tmp_path, make_settings(steps=2, train="unet")), encode=encode)
    with pytest.raises(BrokenImages, match=r"/elsewhere\.png"):
        train(job)
