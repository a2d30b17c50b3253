"""A LoRA with another strength for each image of a batch, through the host's bypass path."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from comfy.weight_adapter import LoRAAdapter
from comfy.weight_adapter.bypass import BypassInjectionManager

from ..lora.apply import match_lora
from .sampling import Studio
from .shot import Shot

_numbers = itertools.count()


class Strengths:
    """Stands where the host has one strength: scales the output of a layer's LoRA image by image.

    ``values``: one strength for each image, shape (N,). A layer may see the batch several times over (with and without
    the prompt); its first dimension then counts the images again from the start.
    """

    def __init__(self) -> None:
        self.values = torch.ones(1)

    def __rmul__(self, other: float) -> Scaled:
        return Scaled(self, other)

    @contextmanager
    def only(self, images: Sequence[int]) -> Iterator[None]:
        """For a while the batch consists of some of its images, by number."""
        whole = self.values
        self.values = whole[list(images)]
        try:
            yield
        finally:
            self.values = whole


class Scaled:
    """Strengths times a layer's alpha over rank."""

    def __init__(self, strengths: Strengths, scale: float) -> None:
        self.strengths, self.scale = strengths, scale

    def __rmul__(self, output: torch.Tensor) -> torch.Tensor:
        each = self.strengths.values.to(output) * self.scale
        return output * each.repeat(output.shape[0] // len(each)).view(-1, *(1,) * (output.ndim - 1))


class BatchLora:
    """Models whose LoRA strengths are set for each batch; made once for each LoRA of a studio."""

    _held: weakref.WeakKeyDictionary[Studio, dict[tuple[str, str], BatchLora | None]] = weakref.WeakKeyDictionary()

    def __init__(self, base: Any, patches: dict[str, Any]) -> None:
        self.strengths = Strengths()
        manager = BypassInjectionManager()
        for key, adapter in patches.items():
            manager.add_adapter(key, adapter, strength=self.strengths)  # type: ignore[arg-type]
        self.patched = base.clone()
        # the host takes two models for one where the names of their injections agree
        name = f"mjesec_lora_{next(_numbers)}"
        self.patched.set_injections(name, manager.create_injections(self.patched.model))

    @classmethod
    def fits(cls, studio: Studio, shot: Shot) -> bool:
        """Whether the shot's LoRA consists of plain low-rank pairs on whole layers; no LoRA fits as well."""
        return studio.lora(shot) is None or cls._of(studio, shot) is not None

    @classmethod
    def model(cls, studio: Studio, shots: Sequence[Shot]) -> Any:
        """The MODEL with the shots' strengths; they stay set until the next call."""
        batch = cls._of(studio, shots[0])
        if batch is None:
            raise ValueError("this LoRA has one strength for a whole batch")
        batch.strengths.values = torch.tensor([shot.lora_weight_model for shot in shots], dtype=torch.float32)
        return batch.patched

    @classmethod
    def only(cls, studio: Studio, model: Any, images: Sequence[int]) -> AbstractContextManager[None]:
        """For a while a model of ``model`` sees some of its batch's images, by number; others have no strengths."""
        batches = (batch for batch in cls._held.get(studio, {}).values() if batch is not None)
        return next((batch.strengths.only(images) for batch in batches if batch.patched is model), nullcontext())

    @classmethod
    def forget(cls, studio: Studio) -> None:
        """Let go of the studio's model: there may be no room for it beside the next checkpoint."""
        cls._held.pop(studio, None)

    @classmethod
    def _of(cls, studio: Studio, shot: Shot) -> BatchLora | None:
        held = cls._held.setdefault(studio, {})
        name = (shot.checkpoint, shot.lora_file)
        if name not in held:
            held.clear()  # jobs come in the order of their LoRAs
            base = studio.parts(shot)[0]
            # made anew: the host's bypass changes the adapters that it is given
            patches = match_lora(base, None, studio.lora(shot) or {}).to_model
            plain = bool(patches) and all(_is_plain(key, patch) for key, patch in patches.items())
            held[name] = cls(base, patches) if plain else None
        return held[name]


def _is_plain(key: object, patch: object) -> bool:
    if not isinstance(key, str) or not key.endswith(".weight") or type(patch) is not LoRAAdapter:
        return False
    _up, _down, alpha, _middle, dora, reshape = patch.weights
    return dora is None and reshape is None and (alpha is None or isinstance(alpha, (int, float)))
