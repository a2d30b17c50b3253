"""Nodes that make a dataset: from a folder, from images on wires, and rendered Moons."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from comfy_api.latest import io, ui
from PIL import Image

from ...figures import contact_sheet
from ...trainer.dataset.combine import combine
from ...trainer.dataset.open_datasets import OpenDataset
from ...trainer.dataset.report import dataset_report
from ...trainer.dataset.scan import MOST_REPEATS, Dataset, scan_folder
from ...trainer.dataset.thumbnails import small_pictures, spread
from ...trainer.dataset.view import plain_text
from ...trainer.errors import DatasetError
from ...trainer.files import write_atomically
from ...trainer.moons.folder import render_moons
from ...trainer.settings.training import TrainSettings
from ..folders import listing_fingerprint, offered_folders, resolve_dataset, unknown_yet, work_folder
from ..given_files import GivenFiles
from ..images import to_pillow, to_tensor
from ..progress import NodeWatcher
from ..reports import report_shown
from ..sockets import DatasetSocket, TrainSettingsSocket
from .routes import DATASETS

CATEGORY = "Mjesec/dataset"
_SHEET_IMAGES = 48
_THUMBNAIL = 160  # pixels a side
# the work folder may be emptied at any time: then ComfyUI's kept datasets name images that are no more
_moons = GivenFiles()
_written = GivenFiles()


def _sheet(dataset: Dataset, watcher: NodeWatcher) -> Image.Image:
    """A contact sheet of at most 48 samples spread over the dataset."""
    shown = spread(dataset.samples, _SHEET_IMAGES)
    images = small_pictures(shown, _THUMBNAIL, lambda done, of: watcher.stage("contact sheet", done, of))
    note = f"{dataset.num_images} images" + (f", {len(shown)} shown" if len(shown) < dataset.num_images else "")
    return contact_sheet(images, [sample.caption for sample in shown], note=note, thumb=_THUMBNAIL)


def _result(
    dataset: Dataset,
    cls: type[io.ComfyNode],
    watcher: NodeWatcher,
    clip: Any = None,
    settings: TrainSettings | None = None,
) -> io.NodeOutput:
    count_tokens = None
    if clip is not None:
        from ..host import tokenizer

        tokenize = tokenizer(clip)

        def count_tokens(caption: str) -> int:
            return len(tokenize(caption)) - 2

    report = dataset_report(
        dataset, count_tokens, settings.buckets if settings else None, settings.captions.tokens if settings else 75
    )
    sheet = to_tensor(_sheet(dataset, watcher))
    shown = {
        **ui.PreviewImage(sheet, cls=cls).as_dict(),
        **report_shown(report),
        "mjesec_dataset": [DATASETS.keep(OpenDataset(dataset))],
    }
    return io.NodeOutput(dataset, sheet, report, ui=shown)


def _scanned(folder: Path, watcher: NodeWatcher, **options: Any) -> Dataset:
    return scan_folder(folder, on_progress=lambda done, of: watcher.stage("reading images", done, of), **options)


def _given(dataset: Dataset, kept: GivenFiles) -> Dataset:
    """The dataset itself; its images are looked for from now on."""
    kept.add(Path(sample.path) for sample in dataset.samples)
    return dataset


def _outputs() -> list[io.Output]:
    return [
        DatasetSocket.Output("dataset", tooltip="The images and captions to train on."),
        io.Image.Output("contact_sheet", tooltip="The images with their captions, at most 48."),
        io.String.Output("report", tooltip="Counts, and every file with a problem."),
    ]


class LoadImageDataset(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MjesecLoadImageDataset",
            display_name="Load Image Dataset",
            category=CATEGORY,
            description="A folder of images with captions in text files of the same name. Sub-folders named as kohya "
            "does (10_moon) repeat their images. Broken files are listed and left out.",
            search_aliases=["kohya dataset", "training images", "captions", "folder"],
            has_intermediate_output=True,
            inputs=[
                io.Combo.Input(
                    "folder",
                    options=offered_folders(),
                    tooltip="A folder under ComfyUI's input folder (input/…) or models/datasets (datasets/…). Links "
                    "to elsewhere are not offered: name that place as datasets in ComfyUI's extra_model_paths.yaml.",
                ),
                io.Int.Input(
                    "repeats",
                    default=1,
                    min=1,
                    max=MOST_REPEATS,
                    tooltip="How many times an epoch shows each image; sub-folders named N_name have their own N.",
                ),
                io.String.Input(
                    "default_caption",
                    default="",
                    tooltip="Caption of images without a caption file. In sub-folders the words of their name go "
                    "first: moon in 10_moon. Empty: images without both are trained without words.",
                ),
                io.String.Input(
                    "caption_extension",
                    default=".txt",
                    tooltip="Ending of the caption files, with its dot.",
                    advanced=True,
                ),
                io.String.Input(
                    "caption_table",
                    default="",
                    optional=True,
                    tooltip="A .json or .jsonl file in the folder with the captions of many images, such as "
                    "metadata.jsonl (file_name, text) or kohya's meta_cap.json. Empty: caption files only.",
                    advanced=True,
                ),
                io.Clip.Input(
                    "clip", optional=True, tooltip="Only for the report: which captions are over 75 tokens long."
                ),
                TrainSettingsSocket.Input(
                    "settings", optional=True, tooltip="Only for the report: buckets, and pixels lost by cropping."
                ),
            ],
            outputs=_outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, folder: str | None) -> bool | str:
        if folder is None:
            return True
        try:
            resolve_dataset(folder)
        except DatasetError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(
        cls,
        folder: str | None,
        repeats: int,
        default_caption: str,
        caption_extension: str = ".txt",
        caption_table: str = "",
        clip: Any = None,
        settings: Any = None,
    ) -> tuple[object, ...]:
        listed = unknown_yet() if folder is None else listing_fingerprint(folder)
        return listed, repeats, default_caption, caption_extension, caption_table

    @classmethod
    def execute(
        cls,
        folder: str,
        repeats: int,
        default_caption: str,
        caption_extension: str = ".txt",
        caption_table: str = "",
        clip: Any = None,
        settings: TrainSettings | None = None,
    ) -> io.NodeOutput:
        watcher = NodeWatcher(cls.hidden.unique_id)
        dataset = _scanned(
            resolve_dataset(folder),
            watcher,
            caption_extension=caption_extension,
            repeats=repeats,
            default_caption=default_caption,
            caption_table=caption_table,
        )
        return _result(dataset, cls, watcher, clip, settings)


class DatasetFromImages(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MjesecDatasetFromImages",
            display_name="Dataset From Images",
            category=CATEGORY,
            description="Images and captions from any nodes become a dataset.",
            search_aliases=["images to dataset", "training images"],
            has_intermediate_output=True,
            is_input_list=True,
            inputs=[
                io.Image.Input("images", tooltip="A list or a batch of images; each becomes one sample."),
                io.String.Input(
                    "captions",
                    force_input=True,
                    optional=True,
                    tooltip="One caption for each image, or one for all. Left open: no words.",
                ),
                io.Int.Input(
                    "repeats", default=1, min=1, max=MOST_REPEATS, tooltip="How many times an epoch shows each image."
                ),
            ],
            outputs=_outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, **inputs: object) -> int:
        return _written.fingerprint()

    @classmethod
    def execute(
        cls, images: Sequence[torch.Tensor], repeats: Sequence[int], captions: Sequence[str] | None = None
    ) -> io.NodeOutput:
        pictures = [to_pillow(image) for batch in images for image in batch]
        words = _spread(_checked(captions or [""]), len(pictures))
        digest = hashlib.sha256()
        for picture, caption in zip(pictures, words, strict=True):
            digest.update(f"{picture.size} {picture.mode} {len(caption)} {caption}".encode() + picture.tobytes())
        folder = work_folder() / "images" / digest.hexdigest()[:32]
        watcher = NodeWatcher(cls.hidden.unique_id)
        if not _is_whole(folder, len(pictures)):
            _write_samples(folder, pictures, words, watcher)
        return _result(_given(_scanned(folder / "samples", watcher, repeats=repeats[0]), _written), cls, watcher)


def _checked(captions: Sequence[str]) -> list[str]:
    for number, caption in enumerate(captions, start=1):
        if plain_text(caption) != caption:
            raise DatasetError(f"Caption {number} holds half of a character, which no file can hold; write it anew.")
    return list(captions)


def _spread(captions: list[str], count: int) -> list[str]:
    if len(captions) == 1:
        return captions * count
    if len(captions) != count:
        raise DatasetError(f"There are {count} images and {len(captions)} captions; give one for each, or one for all.")
    return captions


def _is_whole(folder: Path, count: int) -> bool:
    """Whether ``count`` samples were written to their end and none has been deleted since."""
    present = {path.name for path in (folder / "samples").glob("*")}
    wanted = {f"{number:05d}{suffix}" for number in range(count) for suffix in (".png", ".txt")}
    return (folder / "complete").exists() and wanted <= present


def _write_samples(folder: Path, pictures: list[Image.Image], captions: list[str], watcher: NodeWatcher) -> None:
    for number, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        _write_sample(folder / "samples" / f"{number:05d}", picture, caption)
        watcher.stage("writing images", number + 1, len(pictures))
    write_atomically(folder / "complete", lambda scratch: scratch.touch())


def _write_sample(stem: Path, picture: Image.Image, caption: str) -> None:
    write_atomically(stem.with_suffix(".png"), lambda scratch: picture.save(scratch, "PNG", compress_level=1))
    # a caption is one line
    line = " ".join(caption.split()).encode("utf-8")
    write_atomically(stem.with_suffix(".txt"), lambda scratch: scratch.write_bytes(line))


class MoonDataset(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MjesecMoonDataset",
            display_name="Moon Dataset",
            category=CATEGORY,
            description="Renders Moons that look like photographs, in all phases, with captions: a dataset that needs "
            "no download.",
            search_aliases=["moon", "synthetic dataset", "example dataset"],
            has_intermediate_output=True,
            inputs=[
                io.Int.Input("count", default=40, min=1, max=10_000, tooltip="How many Moons."),
                io.Int.Input(
                    "size", default=1024, min=64, max=2048, step=64, tooltip="Width and height of each, in pixels."
                ),
                io.Int.Input(
                    "seed",
                    default=1,
                    min=0,
                    max=2**31 - 1,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="The same seed renders the same Moons.",
                ),
            ],
            outputs=_outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, **inputs: object) -> int:
        return _moons.fingerprint()

    @classmethod
    def execute(cls, count: int, size: int, seed: int) -> io.NodeOutput:
        watcher = NodeWatcher(cls.hidden.unique_id)
        folder = work_folder() / "moons" / f"{count}x{size}_{seed}"
        render_moons(folder, count, size, seed, on_progress=lambda done, of: watcher.stage("rendering Moons", done, of))
        return _result(_given(_scanned(folder, watcher), _moons), cls, watcher)


class CombineDatasets(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MjesecCombineDatasets",
            display_name="Combine Datasets",
            category=CATEGORY,
            description="Several datasets as one, and images for prior preservation.",
            search_aliases=["merge datasets", "regularisation", "class images", "prior preservation", "dreambooth"],
            has_intermediate_output=True,
            inputs=[
                DatasetSocket.Input("dataset", tooltip="The first dataset."),
                DatasetSocket.Input("dataset_2", optional=True, tooltip="Its images come after the first one's."),
                DatasetSocket.Input("dataset_3", optional=True, tooltip="Its images come last."),
                DatasetSocket.Input(
                    "regularisation",
                    optional=True,
                    tooltip="Images of what the base knows already and is to keep, such as other heavenly bodies. An "
                    "epoch shows as many of them as of the others; Loss Options says what they count for.",
                ),
            ],
            outputs=_outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        dataset: Dataset,
        dataset_2: Dataset | None = None,
        dataset_3: Dataset | None = None,
        regularisation: Dataset | None = None,
    ) -> io.NodeOutput:
        combined = combine([d for d in (dataset, dataset_2, dataset_3) if d is not None], regularisation)
        return _result(combined, cls, NodeWatcher(cls.hidden.unique_id))


NODES = [LoadImageDataset, DatasetFromImages, MoonDataset, CombineDatasets]
