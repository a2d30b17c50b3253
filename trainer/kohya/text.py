"""What a kohya configuration says, as one flat set of keys, whichever of its forms it comes in.

Forms: the GUI's flat toml; sd-scripts' toml in sections, whose names mean nothing (`read_config_from_file` of
kohya-ss/sd-scripts); a command line or a file of arguments; and a dataset toml or JSON (`--dataset_config`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import SettingsError
from .command import one_line_each, parse_command

Read = Callable[[str], str]
"""The text of a file that a configuration names."""

_FILES = ("pretrained_model_name_or_path", "vae", "train_data_dir", "reg_data_dir", "image_dir", "output_dir",
          "conditioning_data_dir", "config_file", "dataset_config")  # fmt: skip
_WINDOWS_PATHS = "write paths of Windows with / (in a toml also in single quotation marks)"
_BACKSLASH = re.compile(r'"[^"\n]*\\[^"\n]*"')
# keys of sd-scripts that take several values on a command line
SEVERAL = ("base_weights", "base_weights_multiplier", "lr_scheduler_args", "network_args", "optimizer_args",
           "text_encoder_lr")  # fmt: skip
# a line of arguments, or a script with some; in a toml such a text stands behind a key
_ARGUMENTS = re.compile(r"(?m)^\s*--[a-zA-Z]|^(?!\s*[\w\"'.]+\s*=\s*[\"'\[{])[^#\n]*\.py[\"']?\s([^\n]*\s)?--[a-zA-Z]")


@dataclass(frozen=True)
class Subset:
    """One image folder of a dataset toml: its own keys over those of its dataset and of [general]."""

    values: Mapping[str, object]


@dataclass(frozen=True)
class KohyaText:
    """values: keys as they stand, of the training and of [general]. subsets: image folders of a dataset toml.

    launcher: arguments of a command line that are for what starts the script, such as accelerate launch.
    """

    values: Mapping[str, object]
    subsets: tuple[Subset, ...] = ()
    launcher: tuple[str, ...] = ()


def parse_kohya(text: str, read: Read | None = None) -> KohyaText:
    """Keys and values of a configuration; files it names (config_file, dataset_config) are read with ``read``.

    Raises:
        SettingsError: neither toml, JSON nor arguments, or a file is named where none can be read.
    """
    parsed = _parse_one(text.lstrip("\ufeff"))
    values, subsets = dict(parsed.values), parsed.subsets
    for key in ("config_file", "dataset_config"):
        if (name := values.pop(key, None)) in (None, ""):
            continue
        if read is None:
            raise SettingsError(
                f"{key} names the file '{name}', and only the configuration itself is read here: "
                "put that file's text in its place."
            )
        if key == "config_file" and not str(name).endswith(".toml"):
            name = f"{name}.toml"
        inner = _parse_one(read(str(name)))
        # what stands on the command line wins over the file
        values = {**inner.values, **values}
        subsets += inner.subsets
    return KohyaText(values, subsets, parsed.launcher)


def _parse_one(text: str) -> KohyaText:
    if not text.strip():
        raise SettingsError("The kohya configuration is empty; give a config.toml or the arguments of a training.")
    # what UTF-16 is where it is read as UTF-8
    if "\0" in text:
        raise SettingsError("The kohya configuration is no UTF-8 text; save it as UTF-8.")
    if _is_arguments(text):
        words, launcher = parse_command(one_line_each(text))
        return KohyaText(_collect(words), launcher=launcher)
    data = _parse_json(text) if text.lstrip().startswith("{") else _parse_toml(text)
    parsed = KohyaText(_flatten(data), tuple(_subsets(data)))
    for values in (parsed.values, *(subset.values for subset in parsed.subsets)):
        _check_paths(values)
    return parsed


def _check_paths(values: Mapping[str, object]) -> None:
    for key, value in values.items():
        if key in _FILES and isinstance(value, str) and (odd := re.search(r"[\x00-\x1f]", value)):
            raise SettingsError(
                f"{key} = {value!r} holds {odd[0]!r} where a path was meant: within double quotes a backslash begins "
                f"a special character; {_WINDOWS_PATHS}."
            )


def _is_arguments(text: str) -> bool:
    text = one_line_each(text)
    if _ARGUMENTS.search(text):
        return True
    return bool(re.search(r"\s--[a-zA-Z]\w*([=\s]|$)", text)) and not re.search(r"(?m)^\s*[\w\"']+\s*=", text)


def _parse_toml(text: str) -> dict[str, Any]:
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        import tomli as tomllib
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        cure = f"correct that place{_hint(text)}"
        raise SettingsError(f"The kohya configuration is no valid toml: {error}; {cure}.") from None


def _hint(text: str) -> str:
    return f", and {_WINDOWS_PATHS}" if _BACKSLASH.search(text) else ""


def _parse_json(text: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        cure = f"correct that place{_hint(text)}"
        raise SettingsError(f"The kohya configuration is no valid JSON: {error}; {cure}.") from None
    if "LoRA_type" in data:
        raise SettingsError(
            "This JSON holds the widgets of kohya's GUI; give the config_lora-….toml that the GUI writes into the "
            "output folder when a training starts."
        )
    return data


def _collect(words: Iterable[str]) -> dict[str, object]:
    found: dict[str, list[str]] = {}
    key = ""
    for word in words:
        if match := re.fullmatch(r"--([A-Za-z]\w*)(?:=(.*))?", word, re.DOTALL):
            key = match[1]
            found[key] = [] if match[2] is None else [match[2]]
        elif not key:
            raise SettingsError(f"The argument '{word}' belongs to no key; write --key=value.")
        else:
            found[key].append(word)
    out: dict[str, object] = {}
    for key, given in found.items():
        if len(given) > 1 and key not in SEVERAL:
            raise SettingsError(
                f"{key} is given {len(given)} values ({' '.join(given)}); put quotation marks around one."
            )
        out[key] = given if key in SEVERAL else (given[0] if given else True)
    return out


def _flatten(data: Mapping[str, Any]) -> dict[str, object]:
    """Sections fall away, as sd-scripts merges them; [[datasets]] are not keys, and [general] is of their folders."""
    out: dict[str, object] = {}
    for key, value in data.items():
        if key == "datasets" or (key == "general" and "datasets" in data):
            continue
        if isinstance(value, dict):
            out.update(value)
        else:
            out[key] = value
    return out


def _subsets(data: Mapping[str, Any]) -> Iterable[Subset]:
    general = data.get("general", {})
    if not isinstance(general, dict):
        raise SettingsError("general is no section; write it as [general] with its keys below it.")
    for dataset in _tables(data, "datasets"):
        shared = {**general, **{k: v for k, v in dataset.items() if k != "subsets"}}
        subsets = _tables(dataset, "subsets", "datasets.")
        if not subsets:
            raise SettingsError("A [[datasets]] has no image folders; add [[datasets.subsets]] with an image_dir.")
        yield from (Subset({**shared, **subset}) for subset in subsets)


def _tables(data: Mapping[str, Any], name: str, within: str = "") -> list[dict[str, Any]]:
    tables = data.get(name, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise SettingsError(f"{name} is no list of sections; write each of them as [[{within}{name}]].")
    return tables
