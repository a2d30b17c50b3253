"""The noise-prediction loss of the host's own model, with a LoRA at a weight, at fixed noise and noise levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import comfy.sample
import comfy.samplers
import torch
from PIL import Image, ImageOps

from ...trainer.dataset.images import load_rgb
from ...trainer.dataset.samples import Sample
from ...trainer.sdxl.precision import widened
from ..images import to_tensor
from ..lora.apply import Match, match_lora
from ..progress import NodeWatcher

_TIMESTEPS = (100, 300, 500, 700, 900)
_SEED = 20240711


class NoisePrediction(comfy.samplers.Sampler):
    """Takes no step: asks the model for the clean image at each sigma and compares the noise that this implies."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def sample(
        self, model_wrap: Any, sigmas: torch.Tensor, extra_args: dict[str, Any], callback: Any, noise: torch.Tensor,
        latent_image: torch.Tensor, denoise_mask: Any = None, disable_pbar: bool = False,
    ) -> torch.Tensor:  # fmt: skip
        for sigma in sigmas:
            noisy = latent_image + sigma * noise
            clean = model_wrap(noisy, sigma.expand(len(noisy)), **extra_args)
            self.losses.append(float(widened((noisy - clean) / sigma - noise).square().mean()))
        return latent_image


@dataclass(frozen=True)
class Probe:
    """The wires, and the LoRA's tensors."""

    model: Any
    clip: Any
    vae: Any
    lora: Mapping[str, torch.Tensor]
    watcher: NodeWatcher

    @cached_property
    def match(self) -> Match:
        return match_lora(self.model, self.clip, self.lora)

    def losses(self, weights: Sequence[float], parts: Sequence[Sequence[Sample]]) -> list[list[float]]:
        """The mean loss of each part's images at each weight: rows are weights, columns parts."""
        latents = [[self._latent(sample) for sample in part] for part in parts]
        total, done = len(weights) * sum(map(len, parts)), 0
        table = []
        for weight in weights:
            base = self.model, self.clip
            model, clip = self.match.put_on(*base, weight, weight) if weight else base
            row = []
            for part, own in zip(parts, latents, strict=True):
                found = []
                for number, (sample, latent) in enumerate(zip(part, own, strict=True)):
                    self.watcher.stage("loss", done, total)
                    found.append(self._loss(model, clip, sample.caption, latent, number))
                    done += 1
                row.append(sum(found) / len(found))
            table.append(row)
        return table

    def _loss(self, model: Any, clip: Any, caption: str, latent: torch.Tensor, number: int) -> float:
        words = clip.encode_from_tokens_scheduled(clip.tokenize(caption))
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(words, words)
        guider.set_cfg(1.0)
        probe = NoisePrediction()
        noise = comfy.sample.prepare_noise(latent, _SEED + number)
        schedule = model.get_model_object("model_sampling")
        sigmas = torch.stack([schedule.sigma(torch.tensor(float(step))) for step in reversed(_TIMESTEPS)])
        guider.sample(noise, latent, probe, sigmas, disable_pbar=True, seed=_SEED)
        return sum(probe.losses) / len(probe.losses)

    def _latent(self, sample: Sample) -> torch.Tensor:
        """(1, C, H/8, W/8), the picture at its own size but for what does not divide by 64, at most a megapixel."""
        image = load_rgb(sample.path)
        scale = min(1.0, (1024 * 1024 / (image.width * image.height)) ** 0.5)
        size = tuple(max(64, round(side * scale) // 64 * 64) for side in image.size)
        return self.vae.encode(to_tensor(ImageOps.fit(image, size, Image.Resampling.LANCZOS)))
