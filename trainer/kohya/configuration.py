"""Any kohya SDXL LoRA configuration as a run of this trainer, and an account of every one of its keys."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..dataset.samples import Dataset
from ..dataset.scan import MOST_REPEATS, Layout
from ..errors import SettingsError
from ..settings.training import TrainSettings
from .keys import MUST_BE_OFF, NO_SAMPLES, SAMPLE_KEYS
from .settings import is_folder_of_masks, read_settings
from .text import KohyaText, Read, Subset, parse_kohya
from .values import Keys, is_empty, is_off

_PLACES = {
    "pretrained_model_name_or_path": "the base comes from the MODEL and CLIP on the wire",
    "vae": "the VAE comes from the wire",
    "v_parameterization": "what the network predicts is a property of the MODEL on the wire",
    "zero_terminal_snr": "the noise levels are those of the MODEL on the wire (ModelSamplingDiscrete sets zsnr)",
    "no_half_vae": "the VAE runs as ComfyUI was told to run it",
    "train_data_dir": "the images come from the dataset on the wire",
    "reg_data_dir": "Combine Datasets takes regularisation images",
    "caption_extension": "Load Image Dataset has an input for it",
    "caption_extention": "Load Image Dataset has an input for it",
    "dataset_repeats": "Load Image Dataset has an input for it",
    "output_dir": "LoRA files go to output/loras",
}
_OVERRIDDEN = {
    "output_name": "output_name",
    "max_train_steps": "steps",
    "max_train_epochs": "steps",
    "seed": "seed",
    "mixed_precision": "precision",
}
_OF_A_FOLDER = ("image_dir", "num_repeats", "class_tokens", "is_reg", "caption_extension", "custom_attributes")
# keys that stand for those of folders that have none
_OF_EACH = {"dataset_repeats": "num_repeats", "caption_extension": "caption_extension"}
_IN_GRAPH = "it is for what starts the script, and a graph trains in one process"
_BESIDE = "it is for what starts the script; give it to accelerate launch before -m trainer"
_MASKS = "conditioning_data_dir"
_RENAMED = {"batch_size": "train_batch_size"}


@dataclass(frozen=True)
class ImageFolder:
    """A folder of images. repeats: of images that no N_name folder counts; class_tokens: their missing captions.

    regularisation: they keep what the base knows already. layout: as for `scan_folder`.
    """

    path: str
    repeats: int = 1
    class_tokens: str = ""
    caption_extension: str = ".caption"
    regularisation: bool = False
    layout: Layout = "mixed"


@dataclass(frozen=True)
class Places:
    """What a configuration says about files; only the command line follows it, a graph has wires for it.

    other: how a folder is read that is given in place of those that are learnt.
    """

    checkpoint: str
    vae: str
    folders: tuple[ImageFolder, ...]
    other: ImageFolder
    output: str
    v_prediction: bool
    zero_terminal_snr: bool = False


@dataclass(frozen=True)
class KohyaRun:
    """settings: what is trained. honoured: keys and values that decided it. idle: keys without effect, and why.

    values: all keys as they stand."""

    settings: TrainSettings
    places: Places
    honoured: Mapping[str, object]
    idle: Mapping[str, str]
    values: Mapping[str, object]


@dataclass(frozen=True)
class KohyaConfig:
    """A configuration that was read, before it is known which images it meets."""

    values: Mapping[str, object]
    places: Places
    of_folders: tuple[Mapping[str, object], ...] = ()
    """Of each image folder of a dataset toml the keys that are its own."""
    unlike: Mapping[str, str] = field(default_factory=dict)
    """Keys of the training that its image folders have unlike, and their values in words."""
    launcher: tuple[str, ...] = ()
    """Keys of a command line that are for what starts the script."""

    def run(
        self,
        dataset: Dataset | None,
        *,
        in_graph: bool,
        processes: int = 1,
        instead: tuple[str, ...] = (),
        **overrides: object,
    ) -> KohyaRun:
        """The run on these images.

        processes: how many train together; train_batch_size is what each of them takes, as in sd-scripts.
        instead: keys of places that are given beside the configuration.
        overrides: fields of `TrainSettings`, or ``resolution`` (width, height), that stand above the configuration.

        Raises:
            SettingsError: a sentence for every key that cannot be honoured, among them those of the training that
                image folders have unlike, or a value that no run can have.
        """
        keys = Keys(self.values)
        _read_places(keys, in_graph=in_graph)
        _read_folders(keys, self.of_folders, in_graph=in_graph, others="train_data_dir" in instead)
        keys.idle |= dict.fromkeys(
            (f"{name} before the script" for name in self.launcher), _IN_GRAPH if in_graph else _BESIDE
        )
        try:
            settings = read_settings(keys, dataset, dict(overrides), processes)
        except SettingsError as error:
            raise SettingsError("\n".join([*keys.refused.values(), str(error)])) from error
        for key in (*instead, *(key for key, name in _OVERRIDDEN.items() if name in overrides)):
            keys.idle_for("another value is given beside the configuration", key)
        if not in_graph:
            keys.idle_for(NO_SAMPLES, *filter(keys.given, SAMPLE_KEYS))
        keys.finish()
        for key in sorted(self.unlike.keys() & keys.honoured.keys()):
            values = self.unlike[key]
            keys.tell(key, f"{key} differs among the image folders ({values}); give all of them the same value.")
        if keys.refused:
            raise SettingsError("\n".join(keys.refused.values()))
        return KohyaRun(settings, self.places, keys.honoured, keys.idle, self.values)


def read_kohya(text: str, read: Read | None = None) -> KohyaConfig:
    """Toml (the GUI's, sd-scripts' in sections), a dataset toml, or a command line.

    read: gives the text of a file that the configuration names; None where none can be read.

    Raises:
        SettingsError: it cannot be parsed, or an image folder has no place.
    """
    parsed = parse_kohya(text, read)
    common, unlike = _common(parsed.subsets)
    of_folders = tuple({k: v for k, v in subset.values.items() if k in _OF_A_FOLDER} for subset in parsed.subsets)
    return KohyaConfig({**parsed.values, **common}, _places(parsed), of_folders, unlike, parsed.launcher)


def _common(subsets: tuple[Subset, ...]) -> tuple[dict[str, object], dict[str, str]]:
    """The keys of a dataset toml that belong to the training, and the values of those that its folders have unlike."""
    names = {name for subset in subsets for name in subset.values if name not in _OF_A_FOLDER}
    values: dict[str, object] = {}
    unlike: dict[str, str] = {}
    for name in sorted(names):
        given = [subset.values.get(name) for subset in subsets]
        if name == _MASKS:
            # each folder has its own; one that is named otherwise than all must be is refused later
            given = sorted({str(value) for value in given if value}, key=is_folder_of_masks)[:1] or given
        key = _RENAMED.get(name, name)
        # one that cannot be honoured is refused for that, whatever the others say
        values[key] = next((value for value in given if not is_off(name, value)), given[0])
        if any(value != values[key] and not (is_empty(value) and is_empty(values[key])) for value in given):
            unlike[key] = ", ".join("nothing" if value is None else str(value) for value in given)
    return values, unlike


def _places(parsed: KohyaText) -> Places:
    values = parsed.values
    named = str(values.get("caption_extension") or values.get("caption_extention") or "")
    extension = named or ".caption"
    if parsed.subsets:
        folders = tuple(_folder(subset, extension, values) for subset in parsed.subsets)
    else:
        repeats = _repeats(values, "dataset_repeats")
        keys = (("train_data_dir", False), ("reg_data_dir", True))
        given = [(str(values.get(key) or ""), reg) for key, reg in keys]
        folders = tuple(ImageFolder(path, repeats, "", extension, reg, "folders") for path, reg in given if path)
    learnt = [folder.caption_extension for folder in folders if not folder.regularisation]
    other = ImageFolder("", _repeats(values, "dataset_repeats"), "", [*learnt, named or ".txt"][0])
    return Places(
        checkpoint=str(values.get("pretrained_model_name_or_path") or ""),
        vae=str(values.get("vae") or ""),
        folders=folders,
        other=other,
        output=str(values.get("output_dir") or ""),
        v_prediction=_is_on(values, "v_parameterization"),
        zero_terminal_snr=_is_on(values, "zero_terminal_snr"),
    )


def _folder(subset: Subset, extension: str, common: Mapping[str, object]) -> ImageFolder:
    values = subset.values
    path = str(values.get("image_dir") or "")
    if not path:
        raise SettingsError("A subset of the dataset configuration has no image_dir; name its folder of images.")
    return ImageFolder(
        path,
        _repeats(common, "dataset_repeats")
        if values.get("num_repeats") in (None, "")
        else _repeats(values, "num_repeats"),
        str(values.get("class_tokens") or ""),
        str(values.get("caption_extension") or extension),
        bool(values.get("is_reg")),
        "flat",
    )


def _is_on(values: Mapping[str, object], name: str) -> bool:
    return str(values.get(name)).lower() in ("true", "1")


def _repeats(values: Mapping[str, object], name: str) -> int:
    value = values.get(name)
    if value in (None, ""):
        return 1
    if isinstance(value, bool) or not re.fullmatch(r"\d{1,9}", str(value)) or not 1 <= int(str(value)) <= MOST_REPEATS:
        raise SettingsError(f"{name} = {value!r} is no whole number from 1 to {MOST_REPEATS}; correct it.")
    return int(str(value))


def _read_places(keys: Keys, *, in_graph: bool) -> None:
    for name, instead in _PLACES.items():
        if not keys.given(name):
            continue
        keys.text(name)
        if in_graph:
            keys.idle_for(instead, name)


def _read_folders(keys: Keys, folders: tuple[Mapping[str, object], ...], *, in_graph: bool, others: bool) -> None:
    """others: the images that are learnt come from a folder that is given beside the configuration."""
    if folders and not in_graph:
        keys.idle_for("the dataset configuration names the folders of images", "train_data_dir", "reg_data_dir")
        for key, own in _OF_EACH.items():
            if all(folder.get(own) not in (None, "") for folder in folders) and not others:
                keys.idle_for("every image folder has its own", key)
    learnt = [number for number, folder in enumerate(folders) if not folder.get("is_reg")]
    for number, folder in enumerate(folders):
        for name, value in folder.items():
            told = f"{name} of image folder {number + 1}"
            if not is_off(name, value) and name in MUST_BE_OFF:
                keys.tell(told, f"{told} cannot be honoured: {MUST_BE_OFF[name][1]}.")
            elif in_graph:
                keys.idle[told] = "the images come from the dataset on the wire"
            elif others and number in learnt and (name, number) != ("caption_extension", learnt[0]):
                keys.idle[told] = "another folder of images is given beside the configuration"
            else:
                keys.honoured[told] = value
