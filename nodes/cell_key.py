"""The name of a cell on disk: a hash of everything that its pixels depend on."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path

import comfy.ldm.modules.attention
import comfy.model_management
import folder_paths
import torch

from .apply import lora_from_file
from .fingerprint import (
    Fingerprint,
    clip_fingerprint,
    file_fingerprint,
    fingerprint,
    lora_fingerprint,
    patcher_fingerprint,
    text_fingerprint,
    vae_fingerprint,
)
from .sampling import Subject
from .shot import Shot
from .version import versions

_FORMAT = "mjesec cell 1"


def environment() -> dict[str, str]:
    """Versions, device and dtypes: two hosts that differ in one of them may differ in the last bits of an image."""
    device = comfy.model_management.get_torch_device()
    return {
        **versions(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "attention": comfy.ldm.modules.attention.optimized_attention.__name__,
        "unet_dtype": str(comfy.model_management.unet_dtype()),
        "text_dtype": str(comfy.model_management.text_encoder_dtype()),
        "vae_dtype": str(comfy.model_management.vae_dtype()),
    }


class Keys:
    """Keys for shots of one subject; each wire and each file is hashed once."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self._loras: dict[str, str] = {}
        self.environment = environment()

    def of(self, shot: Shot, how: str) -> str:
        """64 hexadecimal digits; ``how`` tells kinds of computation apart that differ in the last bits.

        Raises:
            ValueError: a LoRA or a checkpoint is not there.
        """
        parts = {
            "format": _FORMAT,
            "how": how,
            "environment": self.environment,
            "models": self._models(shot),
            "lora": [self._lora(shot), shot.lora_weight_model, shot.lora_weight_clip] if shot.uses_lora else None,
            "positive": self._words(self.subject.positive, shot.prompt),
            "negative": self._words(self.subject.negative, shot.negative),
            "start": self._latent or [shot.width, shot.height],
            "sampling": [shot.seed, shot.steps, float(shot.cfg), shot.sampler, shot.scheduler, float(shot.denoise)],
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()

    def hashes(self) -> dict[str, str]:
        """What the manifest tells of the wires and files."""
        named = {f"lora {name}": value for name, value in self._loras.items() if name}
        wired = {"lora": self._loras[""]} if "" in self._loras else {}
        return {"model": self._model.hash, "clip": self._clip.hash, "vae": self._vae.hash, **wired, **named}

    @property
    def model_hash(self) -> str:
        return self._model.hash

    def fleeting(self) -> tuple[str, ...]:
        """Kinds of objects on the wires that only this process knows, so that their cells end with it."""
        found = [*self._model.fleeting, *self._clip.fleeting, *self._vae.fleeting]
        for given in (self.subject.positive, self.subject.negative, self.subject.latent):
            found += [] if given is None else fingerprint(given).fleeting
        return tuple(dict.fromkeys(found))

    @cached_property
    def _model(self) -> Fingerprint:
        return patcher_fingerprint(self.subject.model)

    @cached_property
    def _clip(self) -> Fingerprint:
        return clip_fingerprint(self.subject.clip)

    @cached_property
    def _vae(self) -> Fingerprint:
        return vae_fingerprint(self.subject.vae)

    @cached_property
    def _latent(self) -> str | None:
        return None if self.subject.latent is None else fingerprint(self.subject.latent).hash

    @cached_property
    def _wired_words(self) -> dict[int, str]:
        given = (self.subject.positive, self.subject.negative)
        return {id(words): fingerprint(words).hash for words in given if words is not None}

    def _words(self, given: object, text: str) -> object:
        return {"text": text_fingerprint(text)} if given is None else {"wire": self._wired_words[id(given)]}

    def _models(self, shot: Shot) -> list[str]:
        if not shot.checkpoint:
            return [self._model.hash, self._clip.hash, self._vae.hash]
        path = folder_paths.get_full_path("checkpoints", shot.checkpoint)
        if path is None:
            raise ValueError(f"There is no checkpoint '{shot.checkpoint}'; choose one that the host lists.")
        return [file_fingerprint(Path(path))]

    def _lora(self, shot: Shot) -> str:
        name = shot.lora_file
        if name not in self._loras:
            lora = lora_from_file(name) if name else self.subject.lora
            self._loras[name] = "" if lora is None else lora_fingerprint(lora)
        return self._loras[name]
