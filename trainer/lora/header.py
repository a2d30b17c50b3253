"""What goes into the header of a LoRA file, of which hosts read 1 MiB: some entries are cut or left out for that."""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch

MAX_HEADER = 0x100000 - 64  # ComfyUI's own limit, and room for the padding
TAGS_KEY = "ss_tag_frequency"
# entries that are computed last, as long as they will be
_HASHES = {"sshs_model_hash": "0" * 64, "sshs_legacy_hash": "0" * 8}


def with_fitting_tags(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> dict[str, str]:
    """The entries, with as many of kohya's tags as there is room for, the most frequent ones."""
    room = _room(tensors, {**metadata, **_HASHES})
    if room >= 0 or TAGS_KEY not in metadata:
        return dict(metadata)
    tags = metadata[TAGS_KEY]
    return {**metadata, TAGS_KEY: _most_frequent(json.loads(tags), room + len(_encoded(tags)))}


def fitting(
    tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str], extra: Mapping[str, str]
) -> dict[str, str]:
    """Those of the extra entries for which the others leave room, the first ones first."""
    room = _room(tensors, metadata)
    found: dict[str, str] = {}
    for name, value in extra.items():
        room -= (needed := len(_encoded({name: value})))
        if room < 0:
            room += needed
        else:
            found[name] = value
    return found


def _most_frequent(frequency: Mapping[str, Mapping[str, int]], room: int) -> str:
    """kohya's entry, numbers by tag by folder, in at most ``room`` bytes of a header."""
    counted = [(count, folder, tag) for folder, tags in frequency.items() for tag, count in tags.items()]
    counted.sort(key=lambda entry: -entry[0])
    kept: dict[str, dict[str, int]] = {}
    room -= len(_encoded("{}"))
    for count, folder, tag in counted:
        added = {tag: count} if folder in kept else {folder: {tag: count}}
        # its braces and quotes are more than the comma and the space that part it from others
        room -= len(_encoded(json.dumps(added, ensure_ascii=False)))
        if room < 0:
            break
        kept.setdefault(folder, {})[tag] = count
    return json.dumps(kept, ensure_ascii=False)


def _room(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> int:
    """Bytes that are left of a header with these entries; below zero where it is too long."""
    total = sum(tensor.nbytes for tensor in tensors.values())
    # as the header has it, with offsets as long as the longest
    entries = {
        name: {"dtype": "F8_E4M3", "shape": list(tensor.shape), "data_offsets": [total, total]}
        for name, tensor in tensors.items()
    }
    return MAX_HEADER - len(_encoded({"__metadata__": metadata, **entries}))


def _encoded(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")
