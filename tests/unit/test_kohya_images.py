"""Which images, masks and captions a kohya configuration means, and what is said where this trainer does otherwise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from pack.trainer.dataset.combine import combine
from pack.trainer.dataset.report import dataset_report
from pack.trainer.dataset.samples import Dataset
from pack.trainer.dataset.scan import Layout, scan_folder
from pack.trainer.errors import SettingsError
from pack.trainer.kohya.configuration import ImageFolder, KohyaRun, read_kohya
from pack.trainer.kohya.report import report
from pack.trainer.settings.run_options import ValidationSettings
from pack.trainer.training.caption_variants import fixed_caption
from PIL import Image

LEAST = "resolution = 64\n"


def picture(path: Path, shade: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (64, 64), shade).save(path)
    return path


def pictures(folder: Path, count: int) -> Dataset:
    for shade in range(count):
        picture(folder / f"{shade:02d}.png", shade)
    return scan_folder(folder, default_caption="moon")


def run(text: str, dataset: Dataset | None = None, *, in_graph: bool = True) -> KohyaRun:
    return read_kohya(LEAST + text).run(dataset, in_graph=in_graph)


def test_masks_that_no_image_has_are_refused(tmp_path: Path) -> None:
    dataset = pictures(tmp_path / "moon", 2)
    asked = f'masked_loss = true\nconditioning_data_dir = "{(tmp_path / "masks").as_posix()}"\n'
    with pytest.raises(SettingsError, match="no image has a mask of its name in a folder 'masks' beside it"):
        run(asked, dataset)
    picture(tmp_path / "moon" / "masks" / "00.png")
    assert run(asked, scan_folder(tmp_path / "moon")).settings.loss.mask == "files"


def test_each_folder_of_a_dataset_toml_may_have_masks_of_its_own() -> None:
    folders = "".join(
        f'[[datasets.subsets]]\nimage_dir = "{name}"\nconditioning_data_dir = "{name}/{masks}"\n'
        for name, masks in (("a", "masks"), ("b", "{}"))
    )
    asked = f"masked_loss = true\n[[datasets]]\n{folders}"
    assert run(asked.format("masks")).settings.loss.mask == "files"
    with pytest.raises(SettingsError, match="conditioning_data_dir"):
        run(asked.format("other"))


@pytest.mark.parametrize(("count", "share", "held_out"), [(20, 0.25, 5), (15, 0.1, 1), (5, 0.1, 0)])
def test_the_share_held_out_is_of_the_images_that_are_learnt(
    tmp_path: Path, count: int, share: float, held_out: int
) -> None:
    both = combine([pictures(tmp_path / "moon", count)], pictures(tmp_path / "sky", 40))
    assert run(f"validation_split = {share}", both).settings.validation_images == held_out


@pytest.mark.parametrize(("split", "held_out", "steps"), [(0.3, 0, 90), (0.4, 3, 60)])
def test_the_share_held_out_is_of_each_folder(tmp_path: Path, split: float, held_out: int, steps: int) -> None:
    for folder in range(3):
        for shade in range(3):
            picture(tmp_path / f"1_{folder}" / f"{shade}.png", 10 * folder + shade)
    dataset = scan_folder(tmp_path)
    result = run(f"validation_split = {split}\nmax_train_epochs = 10", dataset)
    assert (result.settings.validation_images, result.settings.steps) == (held_out, steps)
    told = "The 3 held-out images are drawn from all folders together; sd-scripts draws of each folder its share."
    assert (told in report(result, dataset)) == bool(held_out)


def test_a_folder_in_place_of_those_of_a_dataset_toml_has_none_of_their_keys() -> None:
    folders = [
        "image_dir = 'a'\nnum_repeats = 2\nclass_tokens = 'disc'\ncaption_extension = '.txt'",
        "image_dir = 'b'\nnum_repeats = 3\ncaption_extension = '.cap'",
        "image_dir = 'sky'\nnum_repeats = 4\nis_reg = true\ncaption_extension = '.txt'",
    ]
    text = LEAST + "[[datasets]]\n" + "".join(f"[[datasets.subsets]]\n{folder}\n" for folder in folders)
    config = read_kohya("dataset_repeats = 5\n" + text)
    assert config.places.other == ImageFolder("", 5, "", ".txt")
    plain, other = (config.run(None, in_graph=False, instead=instead) for instead in ((), ("train_data_dir",)))
    assert {key: plain.honoured[key] for key in plain.honoured if "image folder" in key} == {
        "image_dir of image folder 1": "a",
        "num_repeats of image folder 1": 2,
        "class_tokens of image folder 1": "disc",
        "caption_extension of image folder 1": ".txt",
        "image_dir of image folder 2": "b",
        "num_repeats of image folder 2": 3,
        "caption_extension of image folder 2": ".cap",
        "image_dir of image folder 3": "sky",
        "num_repeats of image folder 3": 4,
        "is_reg of image folder 3": True,
        "caption_extension of image folder 3": ".txt",
    }
    assert plain.idle["dataset_repeats"] == "every image folder has its own"
    lost = {key for key, reason in other.idle.items() if reason.startswith("another folder of images is given")}
    assert lost == {key for key in plain.honoured if key.endswith(("folder 1", "folder 2"))} - {
        "caption_extension of image folder 1"
    }
    assert other.honoured["dataset_repeats"] == 5
    assert other.honoured["num_repeats of image folder 3"] == 4


@pytest.mark.parametrize(
    ("lines", "every"),
    [
        ("", 8),
        ("validate_every_n_epochs = 3", 24),
        ("validate_every_n_steps = 5", 5),
        ("validate_every_n_steps = 5\nvalidate_every_n_epochs = 3", 5),
    ],
)
def test_what_is_held_out_is_measured_as_often_as_by_sd_scripts(tmp_path: Path, lines: str, every: int) -> None:
    result = run(f"validation_split = 0.2\n{lines}", pictures(tmp_path, 10))
    assert result.settings.validation == ValidationSettings(every=every, keep_best=False)
    if lines.count("validate") == 2:
        assert result.idle["validate_every_n_epochs"] == "validate_every_n_steps decides"


def test_a_mark_between_tags_is_text_without_its_key() -> None:
    caption = "a moon ||| b"
    assert fixed_caption(caption, run("").settings.captions) == caption
    shuffled = 'shuffle_caption = true\nkeep_tokens_separator = "|||"'
    assert fixed_caption(caption, run(shuffled).settings.captions) == "a moon, b"


def test_a_dataset_without_image_folders_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"add \[\[datasets.subsets\]\] with an image_dir"):
        read_kohya(LEAST + "[[datasets]]\nbatch_size = 2\n")


def test_a_dataset_toml_beside_dataset_repeats_and_train_data_dir() -> None:
    folders = '[[datasets]]\n[[datasets.subsets]]\nimage_dir = "a"\n[[datasets.subsets]]\nimage_dir = "b"\n{}'
    text = f'dataset_repeats = 10\ntrain_data_dir = "t"\n{folders.format("num_repeats = 3")}'
    result = run(text, in_graph=False)
    assert [folder.repeats for folder in result.places.folders] == [10, 3]
    assert [folder.path for folder in result.places.folders] == ["a", "b"]
    with pytest.raises(SettingsError, match="num_repeats = 0 is no whole number from 1"):
        read_kohya(LEAST + folders.format("num_repeats = 0"))
    assert result.idle["train_data_dir"] == "the dataset configuration names the folders of images"


def test_folders_are_read_as_sd_scripts_reads_them(tmp_path: Path) -> None:
    stray, inner = picture(tmp_path / "stray.png", 1), picture(tmp_path / "2_moon" / "inner.png", 2)

    def seen(layout: Layout) -> dict[str, int]:
        return {sample.path: sample.repeats for sample in scan_folder(tmp_path, layout=layout).samples}

    assert seen("mixed") == {str(stray): 1, str(inner): 2}
    assert seen("flat") == {str(stray): 1}
    assert seen("folders") == {str(inner): 2}
    told = dataset_report(scan_folder(tmp_path, layout="folders"))
    assert "1 image lies beside the sub-folders 2_moon; those in the sub-folders alone are used" in told
    assert "an image_dir is read without its sub-folders" in dataset_report(scan_folder(tmp_path, layout="flat"))
    inner.unlink()
    assert seen("folders") == {str(stray): 1}


def test_the_keys_of_folders_say_how_they_are_read() -> None:
    one = 'train_data_dir = "t"\nreg_data_dir = "r"\n'
    assert [folder.layout for folder in run(one).places.folders] == ["folders", "folders"]
    subset = '[[datasets]]\n[[datasets.subsets]]\nimage_dir = "a"\n'
    assert [folder.layout for folder in run(subset).places.folders] == ["flat"]


def test_the_last_regularisation_image_keeps_its_repeats(tmp_path: Path) -> None:
    prior = pictures(tmp_path / "sky", 3)
    prior = replace(prior, samples=tuple(replace(sample, repeats=5) for sample in prior.samples))
    both = combine([pictures(tmp_path / "moon", 8)], prior)
    assert [sample.repeats for sample in both.samples if sample.regularisation] == [5, 5]


def test_what_is_computed_otherwise_is_told() -> None:
    text = "min_snr_gamma = 5\nzero_terminal_snr = true\nv_parameterization = true\ngradient_accumulation_steps = 4"
    told = report(run(text), None)
    assert "sd-scripts takes that of the levels before zero_terminal_snr rescales them" in told
    assert "sd-scripts divides their sum by 4" in told
    assert "sd-scripts divides" not in report(run(""), None)
