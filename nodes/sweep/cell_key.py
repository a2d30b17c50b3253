"""The name of a cell on disk: a hash of everything that its pixels depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path

import comfy.ldm.modules.attention
import comfy.memory_management
import comfy.model_management
import folder_paths
import torch
from comfy.cli_args import args

from ..lora.apply import lora_from_file
from ..version import versions
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
from .sampling import Lora, Subject
from .shot import Shot

_FORMAT = "mjesec cell 2"
# switches of the host's command line that change how it calculates; what it makes of the others is told by dtypes
_SWITCHES = (
    "force_fp32", "force_fp16", "fp32_unet", "fp64_unet", "bf16_unet", "fp16_unet", "fp8_e4m3fn_unet",
    "fp8_e5m2_unet", "fp8_e8m0fnu_unet", "fp16_vae", "fp32_vae", "bf16_vae", "cpu_vae", "fp8_e4m3fn_text_enc",
    "fp8_e5m2_text_enc", "fp16_text_enc", "fp32_text_enc", "bf16_text_enc", "fp16_intermediates",
    "force_channels_last", "supports_fp8_compute", "enable_triton_backend", "disable_triton_backend",
    "use_split_cross_attention", "use_quad_cross_attention", "use_pytorch_cross_attention", "use_sage_attention",
    "use_flash_attention", "disable_xformers", "force_upcast_attention", "dont_upcast_attention", "deterministic",
    "directml", "oneapi_device_selector",
)  # fmt: skip


def switches() -> str:
    """Those of the host's switches that are set and may change an image, --fast with each of its features."""
    given = [name for name in _SWITCHES if getattr(args, name, None) not in (None, False)]
    fast = sorted(str(getattr(feature, "value", feature)) for feature in getattr(args, "fast", None) or ())
    return " ".join([*given, *(f"fast:{feature}" for feature in fast)])


def environment() -> dict[str, str]:
    """Versions, device, dtypes and switches: hosts that differ in one may differ in the last bits of an image."""
    device = comfy.model_management.get_torch_device()
    return {
        **versions(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "attention": comfy.ldm.modules.attention.optimized_attention.__name__,
        "unet_dtype": str(comfy.model_management.unet_dtype()),
        "text_dtype": str(comfy.model_management.text_encoder_dtype()),
        "vae_dtype": str(comfy.model_management.vae_dtype()),
        # a LoRA is merged with another rounding where the host patches weights as it moves them
        "weights": "dynamic" if comfy.memory_management.aimdo_enabled else comfy.model_management.vram_state.name,
        "intermediate_dtype": str(comfy.model_management.intermediate_dtype()),
        "switches": switches(),
    }


class Keys:
    """Keys for shots of one subject; each wire and each file is hashed once.

    A file is hashed before the first cell and read when its own cell comes, perhaps hours later: the ``check_``
    methods tell whether it still is what its cells are named after.

    reading: is given the name of a checkpoint, the bytes of it that are hashed, and those in all.
    """

    def __init__(self, subject: Subject, reading: Callable[[str, int, int], None] | None = None) -> None:
        self.subject = subject
        self._reading = reading
        self._loras: dict[str, str] = {}
        self._checkpoints: dict[str, str] = {}
        self._texts: dict[str, str] = {}
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
            "lora": self._adapted(shot),
            "positive": self._words(self.subject.positive, shot.prompt),
            "negative": self._words(self.subject.negative, shot.negative),
            "start": self._latent or [shot.width, shot.height],
            "sampling": [shot.seed, shot.steps, float(shot.cfg), shot.sampler, shot.scheduler, float(shot.denoise)],
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()

    def hashes(self) -> dict[str, str]:
        """What the manifest tells of the wires and files."""
        named = {f"lora {name}": value for name, value in self._loras.items() if name}
        wired = {} if self.subject.lora is None else {"lora": self._lora_named("")}
        others = {f"checkpoint {name}": value for name, value in self._checkpoints.items()}
        wires = {"model": self._model.hash, "clip": self._clip.hash, "vae": self._vae.hash}
        if not self.subject.encodes:
            del wires["clip"]
        return {**wires, **wired, **named, **others}

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
        if self.subject.clip is None or not self.subject.encodes:
            return Fingerprint("")
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
        if given is not None:
            return {"wire": self._wired_words[id(given)]}
        if text not in self._texts:
            self._texts[text] = text_fingerprint(text)
        return {"text": self._texts[text]}

    def _models(self, shot: Shot) -> list[str]:
        name = shot.checkpoint
        if not name:
            return [self._model.hash, self._clip.hash, self._vae.hash]
        if name not in self._checkpoints:
            self._checkpoints[name] = self._checkpoint_hash(name)
        return [self._checkpoints[name]]

    def _adapted(self, shot: Shot) -> list[object] | None:
        """A LoRA and its weights; the same as none where there is none, or where it has no weight."""
        if not shot.uses_lora or not (lora := self._lora_named(shot.lora_file)):
            return None
        return [lora, shot.lora_weight_model, shot.lora_weight_clip if self.subject.encodes else 0.0]

    def _lora_named(self, name: str) -> str:
        if name not in self._loras:
            lora = lora_from_file(name) if name else self.subject.lora
            self._loras[name] = "" if lora is None else lora_fingerprint(lora)
        return self._loras[name]

    def check_lora(self, name: str, lora: Lora) -> None:
        """Raises ValueError where ``lora``, as it was just read, is not what the keys were made of."""
        if name in self._loras and lora_fingerprint(lora) != self._loras[name]:
            raise ValueError(_replaced(f"LoRA '{name}'"))

    def check_checkpoint(self, name: str) -> None:
        """As ``check_lora``; to be called after the file was loaded."""
        if name in self._checkpoints and self._checkpoint_hash(name) != self._checkpoints[name]:
            raise ValueError(_replaced(f"checkpoint '{name}'"))

    def check_text(self, text: str) -> None:
        """As ``check_lora``, of the embeddings that a text calls; to be called after it was encoded."""
        if text in self._texts and text_fingerprint(text) != self._texts[text]:
            raise ValueError(_replaced("folder of embeddings"))

    def _checkpoint_hash(self, name: str) -> str:
        path = folder_paths.get_full_path("checkpoints", name)
        if path is None:
            raise ValueError(f"There is no checkpoint '{name}'; choose one that the host lists.")
        return file_fingerprint(Path(path), self._reading and partial(self._reading, name))


def _replaced(what: str) -> str:
    return f"The {what} was changed while the sweep ran; queue it again."
