"""What a grid came from: the nodes upstream of its figure, their texts, and the files that they name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import folder_paths

from .cell_key import environment
from .fingerprint import file_fingerprint

Prompt = Mapping[str, Mapping[str, Any]]
_FILES = {"ckpt_name": "checkpoints", "lora_name": "loras", "vae_name": "vae", "unet_name": "diffusion_models"}
_TEXTS = ("text", "prompt", "negative", "text_g", "text_l")


def provenance(prompt: Prompt, node: str) -> dict[str, Any]:
    """For a manifest: versions and devices, the graph upstream of ``node``, its texts, and each file's SHA-256."""
    graph = upstream(prompt, prompt[node]["inputs"].values())
    values = [(name, value) for each in graph.values() for name, value in each["inputs"].items()]
    files = [(name, value) for name, value in values if name in _FILES and isinstance(value, str)]
    texts = [value for name, value in values if name in _TEXTS and isinstance(value, str)]
    return {
        "environment": environment(),
        "prompts": list(dict.fromkeys(texts)),
        "files": {value: _hash(_FILES[name], value) for name, value in files if _is_there(_FILES[name], value)},
        "graph": graph,
    }


def upstream(prompt: Prompt, values: Iterable[Any]) -> dict[str, dict[str, Any]]:
    """The nodes that inputs of these values hang on, near or far; a link is a list of a node's id and a slot."""
    found: dict[str, dict[str, Any]] = {}
    waiting = list(values)
    while waiting:
        value = waiting.pop()
        if not isinstance(value, (list, tuple)) or len(value) != 2:
            continue
        key = str(value[0])
        if key in prompt and key not in found:
            found[key] = {name: prompt[key][name] for name in ("class_type", "inputs")}
            waiting += found[key]["inputs"].values()
    return found


def _is_there(kind: str, name: str) -> bool:
    return folder_paths.get_full_path(kind, name) is not None


def _hash(kind: str, name: str) -> str:
    path = folder_paths.get_full_path(kind, name)
    return "" if path is None else file_fingerprint(Path(path))
