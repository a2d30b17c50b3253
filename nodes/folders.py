"""Folders of the host: where datasets may lie, and where Mjesec puts what it makes."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import folder_paths

from ..trainer.dataset.images import IMAGE_EXTENSIONS
from ..trainer.dataset.mask_files import MASKS
from ..trainer.errors import DatasetError, SettingsError

_DEEPEST = 3
_MOST_OFFERED = 1000
# a registered place offers the folders within it
_REGISTER = "name the folder that it lies in as datasets in ComfyUI's extra_model_paths.yaml"
_NOTHING_YET = "(no folder of images yet)"
CONFIG_EXTENSIONS = (".toml", ".json", ".txt", ".sh", ".bat", ".ps1")


def dataset_roots() -> dict[str, Path]:
    """Registered roots by the word that stands before the slash: ``input``, ``datasets``, ``datasets2`` and so on."""
    roots = {"input": Path(folder_paths.get_input_directory())}
    places = [Path(folder_paths.models_dir) / "datasets", *map(Path, folder_paths.get_folder_paths("datasets"))]
    for number, place in enumerate(dict.fromkeys(places)):
        roots["datasets" if number == 0 else f"datasets{number + 1}"] = place
    return roots


def offered_folders() -> list[str]:
    """Folders under the roots that hold images, for the combo box, sorted; where there is none, a line that says so."""
    found: list[str] = []
    for word, root in dataset_roots().items():
        for folder, inner, files in os.walk(root):
            depth = len(Path(folder).relative_to(root).parts)
            inner[:] = sorted(name for name in inner if _is_offered(name, files)) if depth < _DEEPEST else []
            if depth and _has_images(files):
                found.append("/".join((word, *Path(folder).relative_to(root).parts)))
                # sub-folders named as kohya does belong to the dataset above them
                parent = "/".join((word, *Path(folder).relative_to(root).parts[:-1]))
                if Path(folder).name.split("_")[0].isdigit() and depth > 1:
                    found.append(parent)
            if len(found) > _MOST_OFFERED:
                break
    return sorted(set(found)) or [_NOTHING_YET]


def _is_offered(name: str, beside: list[str]) -> bool:
    """Whether a folder beside these files may be a dataset: not where it is hidden, or holds the masks of images."""
    return not name.startswith(".") and not (name == MASKS and _has_images(beside))


def _has_images(files: list[str]) -> bool:
    return any(name.lower().endswith(tuple(IMAGE_EXTENSIONS)) for name in files)


def resolve_dataset(name: str) -> Path:
    """The folder behind a name such as ``input/moon``.

    Raises:
        DatasetError: a name outside the registered roots, also through ``..`` or a link, or no such folder.
    """
    roots = dataset_roots()
    if name == _NOTHING_YET:
        raise DatasetError(
            f"There is no folder of images yet; put one into {roots['input']} and press R in the editor."
        )
    shown = ", ".join(f"{word}/…" for word in roots)
    word, _, rest = name.replace("\\", "/").partition("/")
    parts = [part for part in rest.split("/") if part]
    if word in roots and not parts:
        raise DatasetError(
            f"The folder '{word}' itself is no dataset; choose a folder in it, or make one for your images, such as "
            f"{roots[word] / 'moon'}."
        )
    if word not in roots or any(part in ("..", ".") for part in parts) or "\0" in name:
        raise DatasetError(
            f"The folder '{name}' is outside the dataset folders; put it under one of {shown}, or {_REGISTER}."
        )
    root = Path(os.path.realpath(roots[word]))
    folder = Path(os.path.realpath(root.joinpath(*parts)))
    if not folder.is_relative_to(root):
        raise DatasetError(
            f"The folder '{name}' is a link that leads outside the dataset folders; instead of the link, {_REGISTER}, "
            f"or copy it into {shown}."
        )
    if not folder.is_dir():
        raise DatasetError(f"There is no folder '{name}'; put your images into {root.joinpath(*parts)}.")
    return folder


def offered_configs() -> list[str]:
    """Files under the input folder that may be training configurations, by their path within it, sorted."""
    root = Path(folder_paths.get_input_directory())
    found: list[str] = []
    for folder, inner, files in os.walk(root):
        depth = len(Path(folder).relative_to(root).parts)
        inner[:] = sorted(name for name in inner if not name.startswith(".")) if depth < _DEEPEST else []
        # beside images, text files are captions
        endings = CONFIG_EXTENSIONS[:1] if _has_images(files) else CONFIG_EXTENSIONS
        found += [(Path(folder) / name).relative_to(root).as_posix() for name in files if name.endswith(endings)]
    return sorted(found)[:_MOST_OFFERED]


def resolve_config(name: str) -> Path:
    """The configuration behind a path within the input folder.

    Raises:
        SettingsError: another kind of file, one outside the input folder, or none.
    """
    root = Path(os.path.realpath(folder_paths.get_input_directory()))
    parts = [part for part in name.replace("\\", "/").split("/") if part]
    cure = "put it into ComfyUI's input folder or paste its text"
    if "\0" in name or not name.endswith(CONFIG_EXTENSIONS) or any(part in ("..", ".") for part in parts):
        raise SettingsError(f"'{name}' is no configuration in the input folder; {cure}.")
    path = Path(os.path.realpath(root.joinpath(*parts)))
    if not path.is_relative_to(root) or not path.is_file():
        raise SettingsError(f"There is no configuration '{name}' in the input folder; {cure}.")
    return path


def unknown_yet() -> float:
    """The fingerprint of a file whose name comes by wire: it equals no other, so that the file is read again.

    Made anew each time, for within a tuple even NaN equals itself.
    """
    return float("nan")


def listing_fingerprint(name: str) -> str:
    """Changes whenever a file in the folder is added, removed or edited: names, sizes and times are hashed."""
    digest = hashlib.sha256(name.encode())
    try:
        folder = resolve_dataset(name)
    except DatasetError:
        return digest.hexdigest()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            stat = path.stat()
            digest.update(f"{path} {stat.st_size} {stat.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def loras_folder() -> Path:
    """Where LoRA files go; the host looks for LoRAs there."""
    return Path(folder_paths.get_output_directory()) / "loras"


def work_folder() -> Path:
    """Latents, run states and rendered images: everything that can be made again."""
    return Path(folder_paths.get_output_directory()) / "mjesec"
