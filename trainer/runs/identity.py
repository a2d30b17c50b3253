"""Which run is this? A hash of everything that the result depends on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import torch
from blake3 import blake3

from ..dataset.samples import Dataset
from ..sdxl.parts import scaled_linear_alpha_bar
from ..settings.options import CaptionSettings
from ..settings.training import TrainSettings

_FORMAT = "mjesec run 2"
_MARK = CaptionSettings().keep_separator
# each holds one tensor, which comes from a GPU or a file perhaps; more than a few wait for the memory
_MOST_THREADS = 8
# what a run learns does not depend on: whoever follows an error's advice to change one of them goes on with the run
_LEFT_OUT = (
    "output_name", "saving", "save_precision",
    "memory_profile", "gradient_checkpointing", "compile_blocks", "cuda_graphs",
)  # fmt: skip


def weights_fingerprint(state: Mapping[str, torch.Tensor], on_bytes: Callable[[int], None] | None = None) -> str:
    """BLAKE3 over those of the tensors of a state dict, in the order of the names; several are hashed at once.

    Seven gigabytes are hashed before the first step of a run and before the first cell of a sweep: where the processor
    has no instructions for SHA-256, BLAKE3 takes a tenth of its time. ``on_bytes`` is told the size of each tensor once
    it is hashed.
    """
    digest = blake3()
    names = sorted(state)
    with ThreadPoolExecutor(min(os.cpu_count() or 1, _MOST_THREADS)) as pool:
        for name, own in zip(names, pool.map(_tensor_digest, names, map(state.__getitem__, names)), strict=True):
            digest.update(own)
            if on_bytes is not None:
                on_bytes(state[name].nbytes)
    return digest.hexdigest()


def _tensor_digest(name: str, tensor: torch.Tensor) -> bytes:
    """Of name, dtype, shape and bytes."""
    tensor = tensor.detach().cpu().contiguous()
    digest = blake3(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
    digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.digest()


def schedule_mark(alpha_bar: torch.Tensor, prediction: str) -> str:
    """What a base's fingerprint is to hold of its noise levels and of what it predicts: nothing for SDXL's own.

    The same weights under another schedule are another model.
    """
    usual = scaled_linear_alpha_bar()
    if prediction == "epsilon" and torch.allclose(alpha_bar, usual, rtol=1e-3, atol=1e-6):
        return ""
    # floats of different makers differ in their last bits
    levels = [f"{level:.3g}" for level in alpha_bar[::10].tolist()]
    return hashlib.sha256(f"{prediction} {levels}".encode()).hexdigest()[:16]


def _is_in_a_caption(mark: str, dataset: Dataset) -> bool:
    return any(mark in caption for sample in dataset.samples for caption in sample.all_captions)


def run_id(settings: TrainSettings, dataset: Dataset, base: str, vae: str) -> str:
    """SHA-256 over the settings, the dataset's content and the fingerprints of the base.

    The output's name is left out, how often something is saved against accidents, the file's precision, and how memory
    is spared: the same run under another name is the same run. Files of epochs and the best one belong to what is
    asked for: a run that is finished without them is another.
    """
    if not settings.captions.keep_separator and not _is_in_a_caption(_MARK, dataset):
        # whether it is one makes no difference then
        settings = replace(settings, captions=replace(settings.captions, keep_separator=_MARK))
    fields = {k: v for k, v in settings.as_dict().items() if k not in _LEFT_OUT}
    known = [_FORMAT, fields, dataset.content_hash, base, vae]
    if settings.adapter.kind != "lora":
        # these began otherwise once, and what was learnt from there is another run's
        known.append("LyCORIS' initial weights")
    if settings.adapter.module_dropout:
        known.append("nothing moves what is left out")
    if settings.ema.decay:
        known.append("mean that begins with the run")
    # only wildcards draw among the further lines of a caption file
    if settings.captions.wildcards and any(more := [sample.more_captions for sample in dataset.samples]):
        known.append(more)
    text = json.dumps(known, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
