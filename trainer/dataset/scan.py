"""Reads a dataset folder: every image is decoded once, so that no broken file surfaces at step 500."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, TypeVar

from ..errors import DatasetError, ImageError
from .caption_tables import CaptionTable, read_caption_table
from .captions import read_caption
from .images import IMAGE_EXTENSIONS, count_frames, hash_image, load_rgb
from .mask_files import MASKS, Mask, examine_mask, find_masks, mask_problems
from .samples import Dataset, Problem, Sample, printable

__all__ = ["Dataset", "Problem", "Sample", "scan_folder"]

# a folder 20240501_moon is named by a date
MOST_REPEATS = 10_000
_REPEATS_AND_NAME = re.compile(r"(\d+)_(.*)", re.DOTALL)
# what trainers and file managers leave beside images
NOT_WORTH_A_WORD = (".db", ".ini", ".json", ".jsonl", ".npz", ".safetensors")
_THREADS = 4

_T = TypeVar("_T")
Layout = Literal["mixed", "flat", "folders"]


@dataclass(frozen=True)
class _Found:
    """An image file before it is opened. `name` is its path within the folder, with forward slashes."""

    name: str
    path: Path
    repeats: int
    fallback_caption: str
    mask: Path | None


def scan_folder(
    folder: str | os.PathLike[str],
    *,
    caption_extension: str = ".txt",
    repeats: int = 1,
    default_caption: str = "",
    caption_table: str = "",
    layout: Layout = "mixed",
    on_progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """The dataset in a folder, in the order of the file names.

    Images lie in the folder itself (seen `repeats` times an epoch) or in sub-folders named as kohya does:
    `10_moon` is seen 10 times, and `moon` is the caption where the file of that name is missing. Both may be
    mixed. A caption is the first line of the file with the image's name and `caption_extension`; where that and the
    words of a sub-folder's name are missing, `default_caption` is used. Links are followed only inside the folder. A
    folder `masks` beside images may hold pictures of the same names that say where each counts; they are decoded too.

    caption_table: a JSON or JSON lines file in the folder with the captions of many images; where it has one for an
    image, it is used instead of the image's own file.
    layout: ``flat`` reads no sub-folders, as sd-scripts does for an image_dir; ``folders`` leaves out images that lie
    beside sub-folders with images, as it does for a train_data_dir. What is left out is a problem.
    on_progress: called with (files read, files in all) after each; an exception it raises ends the scan.

    Raises DatasetError when there is no such folder or no usable image in it. Everything else that is
    wrong is listed in `Dataset.problems`.
    """
    _check_options(caption_extension, repeats)
    root = _existing_folder(folder)
    problems: list[Problem] = []
    table = _table(root, caption_table)
    found = list(_find(root, caption_extension, repeats, default_caption, layout, problems))
    samples = list(_read_all(found, root, caption_extension, table, problems, on_progress))
    if not samples:
        raise DatasetError(_why_nothing(folder, root, problems))
    _note_duplicates(samples, root, problems)
    _note_unmasked(samples, root, problems)
    return Dataset(tuple(samples), tuple(problems), str(root))


def _check_options(caption_extension: str, repeats: int) -> None:
    if not re.fullmatch(r"\.[^./\\]+", caption_extension):
        raise DatasetError(f"The caption extension '{caption_extension}' must look like '.txt'.")
    if not 1 <= repeats <= MOST_REPEATS:
        raise DatasetError(f"The repeats {repeats} must be from 1 to {MOST_REPEATS}.")


def _existing_folder(folder: str | os.PathLike[str]) -> Path:
    if not str(folder).strip():
        raise DatasetError("No folder is given; name a folder with images.")
    if not os.path.exists(folder):
        raise DatasetError(f"There is no folder '{folder}'; name an existing folder with images.")
    if not os.path.isdir(folder):
        raise DatasetError(f"'{folder}' is a file; name the folder that holds the images.")
    return Path(os.path.realpath(folder))


def _table(root: Path, name: str) -> CaptionTable | None:
    if not name.strip():
        return None
    path = Path(os.path.realpath(root / name.strip()))
    if not path.is_relative_to(root):
        raise DatasetError(f"The caption file '{name}' lies outside the dataset's folder; name one within it.")
    return read_caption_table(path)


def _why_nothing(folder: str | os.PathLike[str], root: Path, problems: list[Problem]) -> str:
    skipped = [problem for problem in problems if problem.kind in ("broken", "outside")]
    if skipped:
        first = skipped[0]
        return (
            f"None of the {len(skipped)} images in '{folder}' can be used; the first is '{first.path}': {first.detail}."
        )
    unread = [p for p in problems if p.kind == "folder_ignored" and _listing(root / p.path, root, "", [])[0]]
    if unread:
        more = f" and {len(unread) - 1} more are" if len(unread) > 1 else " is"
        return (
            f"The folder '{folder}' itself holds no images, and its sub-folder '{unread[0].path}'{more} not read: "
            f"{unread[0].detail}, or choose that folder."
        )
    return f"The folder '{folder}' holds no images; put {', '.join(IMAGE_EXTENSIONS)} files into it."


def _find(
    root: Path,
    caption_extension: str,
    repeats: int,
    default_caption: str,
    layout: Layout,
    problems: list[Problem],
) -> Iterator[_Found]:
    images, folders = _listing(root, root, caption_extension, problems)
    outer = _with_masks(images, root, root, repeats, default_caption, problems)
    inner, used = [], []
    for folder in folders:
        if folder.name != MASKS and (shown := _repeats_of(folder, root, layout, problems)):
            found = _in_folder(folder, root, caption_extension, shown, default_caption, problems)
            inner += found
            used += [folder.name] if found else []
    if images and used:
        lying = "1 image lies" if len(images) == 1 else f"{len(images)} images lie"
        fate = "all are used"
        if layout == "folders":
            outer, fate = [], "those in the sub-folders alone are used"
        detail = f"{lying} beside the sub-folders {printable(', '.join(used))}; {fate}"
        problems.append(Problem(".", "mixed_folder", detail))
    yield from outer
    yield from inner


def _repeats_of(folder: Path, root: Path, layout: Layout, problems: list[Problem]) -> int:
    """The repeats that a sub-folder's name gives its images; 0 where it is not read, which becomes a problem."""
    match = _REPEATS_AND_NAME.fullmatch(folder.name)
    if layout == "flat":
        detail = "an image_dir is read without its sub-folders; name it as one of its own"
    elif match is None or int(match[1]) < 1:
        # 0_moon asks for no repeats at all
        name = printable(folder.name if match is None else match[2]) or "moon"
        detail = f"its name gives no repeats; name it 10_{name} to have it read"
    elif int(match[1]) > MOST_REPEATS:
        detail = f"its name asks for {match[1]} repeats, and at most {MOST_REPEATS} are taken; rename it"
    else:
        return int(match[1])
    problems.append(Problem(_name(folder, root), "folder_ignored", detail))
    return 0


def _in_folder(
    folder: Path, root: Path, caption_extension: str, repeats: int, default_caption: str, problems: list[Problem]
) -> list[_Found]:
    """The images of a sub-folder; its name's second half is their caption, and where there is none, the default."""
    images, folders = _listing(folder, root, caption_extension, problems)
    detail = "only folders directly in the dataset's folder are read; move it there"
    others = [inner for inner in folders if inner.name != MASKS]
    problems += [Problem(_name(inner, root), "folder_ignored", detail) for inner in others]
    name = folder.name.partition("_")[2].strip() or default_caption
    return _with_masks(images, folder, root, repeats, name, problems)


def _with_masks(
    images: list[Path], folder: Path, root: Path, repeats: int, caption: str, problems: list[Problem]
) -> list[_Found]:
    """The images of a folder with their masks; masks of no image become problems."""
    masks = find_masks(folder, root)
    for path in masks.orphans(images):
        problems.append(Problem(_name(path, root), "mask_orphan", "no image beside the folder has its name"))
    return [_Found(_name(path, root), path, repeats, caption, masks.of(path)) for path in images]


def _listing(
    folder: Path, root: Path, caption_extension: str, problems: list[Problem]
) -> tuple[list[Path], list[Path]]:
    """(image files, folders) in a folder, sorted by name; the rest becomes problems, hidden files aside."""
    images: list[Path] = []
    folders: list[Path] = []
    others: list[Path] = []
    for path in _entries(folder, root, problems):
        if not Path(os.path.realpath(path)).is_relative_to(root):
            problems.append(Problem(_name(path, root), "outside", "it is a link out of the dataset's folder"))
        elif path.is_dir():
            folders.append(path)
        elif path.suffix.lower() in IMAGE_EXTENSIONS:
            images.append(path)
        elif path.suffix.lower() not in NOT_WORTH_A_WORD:
            others.append(path)
    stems = {path.stem for path in images}
    for path in others:
        if path.suffix != caption_extension:
            problems.append(Problem(_name(path, root), "not_an_image", "neither an image nor a caption"))
        elif path.stem not in stems:
            problems.append(Problem(_name(path, root), "caption_orphan", "no image has its name"))
    return images, folders


def _entries(folder: Path, root: Path, problems: list[Problem]) -> list[Path]:
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        if folder == root:
            raise DatasetError(f"The folder '{folder}' cannot be read ({error.strerror}).") from error
        detail = f"it cannot be read ({error.strerror})"
        problems.append(Problem(_name(folder, root), "folder_ignored", detail))
        return []
    return [folder / name for name in names if not name.startswith(".")]


def _name(path: Path, root: Path) -> str:
    return printable(path.relative_to(root).as_posix())


def _read_all(
    found: list[_Found],
    root: Path,
    caption_extension: str,
    table: CaptionTable | None,
    problems: list[Problem],
    on_progress: Callable[[int, int], None] | None,
) -> Iterator[Sample]:
    pool = ThreadPoolExecutor(_THREADS)
    try:
        for done, (file, (result, mask)) in enumerate(zip(found, pool.map(_examine, found), strict=True), start=1):
            if isinstance(result, ImageError):
                problems.append(Problem(file.name, "broken", printable(result.reason)))
            else:
                yield _sample(file, result, mask, root, caption_extension, table, problems)
            if on_progress is not None:
                on_progress(done, len(found))
    finally:
        pool.shutdown(cancel_futures=True)


def _sample(
    file: _Found,
    result: _Examined,
    mask: Mask | ImageError | None,
    root: Path,
    caption_extension: str,
    table: CaptionTable | None,
    problems: list[Problem],
) -> Sample:
    if result.frames > 1:
        problems.append(Problem(file.name, "animated", f"the first of {result.frames} frames"))
    caption = None if table is None else table.find(file.name, file.path)
    more: tuple[str, ...] = ()
    if caption is None:
        caption, more = _caption(file, root, caption_extension, problems)
    size = (result.width, result.height)
    mask_path, mask_hash = "", ""
    if file.mask is not None and mask is not None:
        problems += mask_problems(file.name, size, file.mask, mask)
        mask_path, mask_hash = str(file.mask), "" if isinstance(mask, ImageError) else mask.content_hash
    known = (file.repeats, result.content_hash, mask_hash)
    return Sample(str(file.path), caption, *size, *known, more_captions=more, mask=mask_path)


@dataclass(frozen=True)
class _Examined:
    content_hash: str
    width: int
    height: int
    frames: int


def _examine(file: _Found) -> tuple[_Examined | ImageError, Mask | ImageError | None]:
    """The image and its mask, each decoded once."""
    image = _tried(lambda path: _decoded(hash_image(path), str(path)), file.path)
    return image, None if file.mask is None else _tried(examine_mask, file.mask)


def _tried(examine: Callable[[Path], _T], path: Path) -> _T | ImageError:
    try:
        return examine(path)
    except ImageError as error:
        return error
    except OSError as error:
        return ImageError(path, f"it cannot be read ({error.strerror})")


# keyed by content: a second scan decodes only what has changed, and never meets a stale answer
@lru_cache(maxsize=1 << 16)
def _decoded(content_hash: str, path: str) -> _Examined:
    width, height = load_rgb(path).size
    return _Examined(content_hash, width, height, count_frames(path))


def _caption(file: _Found, root: Path, caption_extension: str, problems: list[Problem]) -> tuple[str, tuple[str, ...]]:
    """The caption and the further lines of its file."""
    path = file.path.with_suffix(caption_extension)
    instead = f"'{printable(file.fallback_caption)}' is used" if file.fallback_caption else "no caption"
    if not path.is_file():
        problems.append(Problem(file.name, "caption_missing", f"no file '{printable(path.name)}'; {instead}"))
        return file.fallback_caption, ()
    if not Path(os.path.realpath(path)).is_relative_to(root):
        problems.append(Problem(file.name, "caption_missing", f"its file is a link elsewhere; {instead}"))
        return file.fallback_caption, ()
    try:
        caption = read_caption(str(path))
    except OSError as error:
        problems.append(Problem(file.name, "caption_missing", f"unreadable ({error.strerror}); {instead}"))
        return file.fallback_caption, ()
    if not caption.is_utf8:
        problems.append(Problem(_name(path, root), "caption_encoding", f"read as {caption.encoding}"))
    if not caption.text:
        problems.append(Problem(_name(path, root), "caption_empty", "its first line is empty"))
    return caption.text, caption.more


def _note_duplicates(samples: list[Sample], root: Path, problems: list[Problem]) -> None:
    first_of: dict[str, str] = {}
    for sample in samples:
        name = _name(Path(sample.path), root)
        first = first_of.setdefault(sample.content_hash, name)
        if first != name:
            problems.append(Problem(name, "duplicate", f"the same file as {first}"))


def _note_unmasked(samples: list[Sample], root: Path, problems: list[Problem]) -> None:
    without = [sample for sample in samples if not sample.mask]
    if len(without) < len(samples):
        detail = f"no picture of its name in '{MASKS}'; it counts everywhere"
        problems += [Problem(_name(Path(sample.path), root), "mask_missing", detail) for sample in without]
