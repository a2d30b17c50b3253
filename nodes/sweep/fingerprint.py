"""What an image depends on, as hashes of content: weights, patches on them, conditionings, latents.

Content that can be read (numbers, text, tensors, weight adapters, modules) is hashed, so its hash outlives the
process. Code that the graph hangs on a model (functions, wrappers, control nets) cannot be read; it gets a token that
lives as long as the object does, so that nothing is ever taken for the same by mistake.
"""

from __future__ import annotations

import hashlib
import uuid
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.sdxl_clip
import comfy.weight_adapter
import folder_paths
import torch

from ...trainer.runs.identity import weights_fingerprint

_DEEPEST = 24
_weights: weakref.WeakKeyDictionary[torch.nn.Module, str] = weakref.WeakKeyDictionary()
_tokens: weakref.WeakKeyDictionary[object, str] = weakref.WeakKeyDictionary()
_files: dict[tuple[str, int, int], str] = {}


@dataclass(frozen=True)
class Fingerprint:
    """``hash`` names the content; ``fleeting`` names the kinds of objects that are known to this process alone."""

    hash: str
    fleeting: tuple[str, ...] = ()


def _token(thing: object) -> str:
    """A name for an object that nothing else ever bears; kept for as long as the object lives."""
    try:
        return _tokens.setdefault(thing, uuid.uuid4().hex)
    except TypeError:  # cannot be referred to weakly, so it is new each time
        return uuid.uuid4().hex


class _Reader:
    """Feeds values to a hash, each with its type, and notes what it could not read."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self.fleeting: list[str] = []

    def read(self, value: Any, depth: int = 0) -> None:
        if value is None or isinstance(value, (bool, int, float, str, bytes, torch.dtype, torch.device, Enum)):
            self._tell(type(value).__name__, repr(value))
        elif isinstance(value, torch.Tensor):
            self._tensor(value)
        elif depth > _DEEPEST:
            self._unreadable(value)
        elif isinstance(value, Mapping):
            self._tell("mapping", str(len(value)))
            for key in sorted(value, key=repr):
                self.read(key, depth + 1)
                self.read(value[key], depth + 1)
        elif isinstance(value, (list, tuple)):
            self._tell("sequence", str(len(value)))
            for item in value:
                self.read(item, depth + 1)
        elif isinstance(value, comfy.weight_adapter.WeightAdapterBase):
            self._tell("adapter", type(value).__qualname__)
            self.read(value.weights, depth + 1)
        elif isinstance(value, torch.nn.Module):
            self._module(value, depth)
        else:
            self._unreadable(value)

    def _tell(self, *words: str) -> None:
        for word in words:
            data = word.encode("utf-8", "surrogatepass")
            self.digest.update(f"{len(data)}:".encode())
            self.digest.update(data)

    def _tensor(self, tensor: torch.Tensor) -> None:
        try:
            data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        except (RuntimeError, TypeError, NotImplementedError):  # quantized and other kinds of their own
            self._unreadable(tensor)
            return
        self._tell("tensor", str(tensor.dtype), str(tuple(tensor.shape)))
        self.digest.update(data)

    def _module(self, module: torch.nn.Module, depth: int) -> None:
        self._tell("module", *(f"{kind.__module__}.{kind.__qualname__}" for kind in type(module).__mro__))
        for part in (module._parameters, module._buffers, module._modules):
            self.read(part, depth + 1)
        self.read({name: held for name, held in vars(module).items() if not name.startswith("_")}, depth + 1)

    def _unreadable(self, value: object) -> None:
        self.fleeting.append(getattr(value, "__qualname__", type(value).__qualname__))
        self._tell("object", _token(value))


def fingerprint(*values: Any) -> Fingerprint:
    """One hash for all ``values``."""
    reader = _Reader()
    reader.read(values)
    return Fingerprint(reader.digest.hexdigest(), tuple(dict.fromkeys(reader.fleeting)))


def _base_weights(patcher: Any) -> str:
    """Hash of the weights below all patches, computed once in the life of the module that holds them."""
    if patcher.model not in _weights:
        # where a patch is merged in place the host keeps the weight below it, and gives that one here
        state = {key: patches[0][0] for key, patches in patcher.get_key_patches().items()}
        if isinstance(patcher.model, comfy.sdxl_clip.SDXLClipModel):
            # SDXL has no such layer: the host makes it, never uses it, and leaves in it what the memory held
            state.pop("clip_l.transformer.text_projection.weight", None)
        _weights[patcher.model] = weights_fingerprint(state)
    return _weights[patcher.model]


def patcher_fingerprint(patcher: Any) -> Fingerprint:
    """A MODEL: weights, the patches on them, and whatever else the graph hung on it."""
    inner = patcher.model
    return fingerprint(
        _base_weights(patcher),
        type(inner).__qualname__,
        # whether the weights predict noise or v, and over which noise levels; a graph's change of it is a patch
        getattr(inner, "model_type", None),
        getattr(getattr(inner, "model_config", None), "sampling_settings", None),
        getattr(inner, "manual_cast_dtype", None),
        patcher.load_device.type,
        patcher.patches,
        patcher.object_patches,
        patcher.weight_wrapper_patches,
        patcher.hook_patches,
        # hooks that hang on it themselves, with the times at which they are strong
        getattr(patcher, "forced_hooks", None),
        patcher.injections,
        patcher.additional_models,
        patcher.model_options,
        *({key: kinds for key, kinds in part.items() if kinds} for part in (patcher.wrappers, patcher.callbacks)),
    )


def clip_fingerprint(clip: Any) -> Fingerprint:
    """A CLIP: its weights and patches, and how it reads and cuts a text."""
    weights = patcher_fingerprint(clip.patcher)
    ways = fingerprint(
        weights.hash,
        type(clip.tokenizer).__qualname__,
        getattr(clip, "layer_idx", None),
        getattr(clip, "tokenizer_options", None),
        getattr(clip, "use_clip_schedule", None),
        getattr(clip, "apply_hooks_to_conds", None),
    )
    return Fingerprint(ways.hash, weights.fleeting + ways.fleeting)


def vae_fingerprint(vae: Any) -> Fingerprint:
    weights = patcher_fingerprint(vae.patcher)
    ways = fingerprint(weights.hash, getattr(vae, "vae_dtype", None), vae.device.type)
    return Fingerprint(ways.hash, weights.fleeting + ways.fleeting)


def lora_fingerprint(lora: Mapping[str, torch.Tensor]) -> str:
    """Hash of a LoRA's tensors; its metadata do not count."""
    return weights_fingerprint(lora)


def file_fingerprint(path: Path, told: Callable[[int, int], None] | None = None) -> str:
    """SHA-256 of a file's bytes, read again whenever its size or time has changed.

    ``told`` is given the bytes read and those in all. A cancel takes effect at once.
    """
    stat = path.stat()
    known = str(path), stat.st_size, stat.st_mtime_ns
    if known not in _files:
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(1 << 24):
                comfy.model_management.throw_exception_if_processing_interrupted()
                digest.update(block)
                if told is not None:
                    told(file.tell(), stat.st_size)
        _files[known] = digest.hexdigest()
    return _files[known]


def text_fingerprint(text: str) -> str:
    """The text, and the embedding files as they are now if it calls one by name."""
    return f"{text}\n{embeddings_stamp()}" if "embedding:" in text else text


def embeddings_stamp() -> str:
    """Changes whenever an embedding file is added, removed or replaced."""
    files = (Path(folder) for folder in folder_paths.get_folder_paths("embeddings"))
    found = sorted(path for folder in files if folder.is_dir() for path in folder.rglob("*") if path.is_file())
    stamps = [f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in found]
    return hashlib.sha256("\n".join(stamps).encode("utf-8", "surrogateescape")).hexdigest()
