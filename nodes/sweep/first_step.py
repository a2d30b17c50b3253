"""A first step that images have in common is computed once.

Images that differ in CFG scale or steps alone start from the same noise at the same sigma, and what the model predicts
there, with and without the prompt, does not depend on what is made of it later. Of four CFG scales three first steps
are saved, to the last bit. At CFG scale 1 the host asks for one prediction and not for two, so it shares with no other.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.samplers
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

_MOST_BYTES = 128 * 2**20  # about 160 images of 1024 pixels
HOOK = "sampler_calc_cond_batch_function"


@dataclass(frozen=True)
class _Step:
    """What a model was asked, what it said, and in how many seconds: latents and predictions, all of one shape."""

    x: torch.Tensor
    predictions: tuple[torch.Tensor, ...]
    seconds: float

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in (self.x, *self.predictions))


class FirstSteps:
    """Stands where the host's sampling asks for predictions, and keeps those of each sampling's first step.

    spared: seconds that the newest sampling's first step took when it was computed; 0 where it was computed now.
    """

    def __init__(self) -> None:
        self.spared = 0.0
        self._held: OrderedDict[Hashable, _Step] = OrderedDict()
        self._same: Hashable | None = None

    def begin(self, same: Hashable | None) -> None:
        """A sampling begins. ``same`` names everything that its first step depends on, but for latents and sigmas.

        None shares nothing.
        """
        self._same, self.spared = same, 0.0

    def __call__(self, asked: dict[str, Any]) -> Sequence[torch.Tensor]:
        """The host's ``sampler_calc_cond_batch_function``: one prediction for each of ``asked["conds"]``."""
        same, self._same = self._same, None
        if same is None:
            return _predict(asked)
        # without guidance the host asks for one of the two
        name = (same, *(cond is None for cond in asked["conds"]), *_sigmas(asked))
        step, x = self._held.get(name), asked["input"]
        if step is not None and torch.equal(step.x, x):
            self.spared = step.seconds
            self._held.move_to_end(name)
        else:
            began = time.perf_counter()
            predictions = tuple(each.clone() for each in _predict(asked))
            if x.device.type == "cuda":
                torch.cuda.synchronize(x.device)
            step = _Step(x.clone(), predictions, time.perf_counter() - began)
            self._held[name] = step
            while sum(each.nbytes for each in self._held.values()) > _MOST_BYTES:
                self._held.popitem(last=False)
        # what comes after may change them in place
        return [each.clone() for each in step.predictions]


def _predict(asked: dict[str, Any]) -> Sequence[torch.Tensor]:
    # by its name, for other extensions put theirs in its place
    predict = comfy.samplers.calc_cond_batch
    return list(predict(asked["model"], asked["conds"], asked["input"], asked["sigma"], asked["model_options"]))


def _sigmas(asked: dict[str, Any]) -> tuple[float, ...]:
    """Those that a prediction depends on: a U-Net knows its own alone, others may look at the whole schedule."""
    sigmas = asked["sigma"].tolist()
    if not isinstance(asked["model"].diffusion_model, UNetModel):
        sigmas += asked["model_options"]["transformer_options"]["sample_sigmas"].tolist()
    return tuple(sigmas)
