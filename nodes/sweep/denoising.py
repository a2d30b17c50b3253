"""One run of the host's KSampler, watched from inside."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import comfy.model_sampling
import comfy.sample
import comfy.samplers
import latent_preview
import torch

import nodes as host_nodes

from ...figures import UNLABELLED, Axis
from ..checkpoint_name import checkpoint_name
from ..images import to_pillow
from .cell_key import environment
from .cell_store import CellStore
from .fingerprint import fingerprint, patcher_fingerprint, vae_fingerprint
from .grid import CellResult, Grid
from .pictures import keep_image

# they take steps of their own, or tell x_t in another scale
_OPAQUE = ("dpm_fast", "dpm_adaptive", "uni_pc", "uni_pc_bh2")
_KINDS = ("noisy image", "prediction")

Frame = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Run:
    """What KSampler takes. ``latent_image`` is the host's LATENT of one image."""

    model: Any
    positive: Any
    negative: Any
    latent_image: dict[str, Any]
    vae: Any
    seed: int
    steps: int
    cfg: float
    sampler: str
    scheduler: str
    denoise: float

    def __post_init__(self) -> None:
        if self.sampler in _OPAQUE:
            raise ValueError(f"The sampler {self.sampler} does not show its steps; choose another, such as euler.")
        if not self.denoise > 0:
            raise ValueError("denoise is 0: nothing is sampled, so there are no steps to show; give more, such as 1.")
        samples = self.latent_image["samples"]
        if samples.ndim != 4 or samples.shape[0] != 1:
            raise ValueError(f"The latent holds {samples.shape[0]} images; a denoising strip shows one.")

    def numbers(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in ("seed", "steps", "cfg", "sampler", "scheduler", "denoise")}

    def told(self) -> dict[str, object]:
        """For the manifest: numbers, versions, and hashes of what came by wire; the model's tells its LoRA as well."""
        words = {"positive": fingerprint(self.positive).hash, "negative": fingerprint(self.negative).hash}
        models = {"model": patcher_fingerprint(self.model).hash, "vae": vae_fingerprint(self.vae).hash}
        return {
            "environment": environment(),
            "hashes": {**models, **words, "latent": fingerprint(self.latent_image).hash},
            "parameters": {**self.numbers(), "wired_checkpoint": checkpoint_name(self.model)},
        }


def strip(run: Run, at: tuple[int, ...], show: str, store: CellStore) -> tuple[Grid, dict[str, Any]]:
    """The frames after ``at`` steps as a grid, and the finished LATENT.

    Raises:
        ValueError: a frame is asked for after more steps than the run has.
    """
    if at[-1] > run.steps:
        raise ValueError(f"A frame is asked for after step {at[-1]}, but the run has {run.steps} steps; change one.")
    began = time.perf_counter()
    frames, latent = watch(run, frozenset(at))
    if missing := [str(step) for step in at if step not in frames]:
        raise ValueError(f"The sampler {run.sampler} shows nothing after step {', '.join(missing)}; leave it out.")
    kinds = _KINDS if show == "both" else (show,)
    axes = (
        Axis("step", at, "Steps done"),
        Axis("frame", kinds, UNLABELLED),
    )
    seconds = (time.perf_counter() - began) / (len(at) * len(kinds))
    results = [_decoded(run, store, frames[step][kind], step, kind, seconds) for step in at for kind in kinds]
    return Grid(axes, tuple(results), run.told()), latent


def watch(run: Run, at: frozenset[int]) -> tuple[dict[int, Frame], dict[str, Any]]:
    """Latents, as the VAE takes them, by the number of steps done; and the finished LATENT, equal to KSampler's.

    x_t is scaled to the variance-preserving form of Ho et al. (2020), so that it fades from noise into the image.
    """
    given = run.latent_image
    start = comfy.sample.fix_empty_latent_channels(
        run.model, given["samples"], given.get("downscale_ratio_spacial"), given.get("downscale_ratio_temporal")
    )
    sigmas = _sigmas(run)
    show_preview = latent_preview.prepare_callback(run.model, run.steps)
    frames: dict[int, Frame] = {}

    def callback(step: int, x0: torch.Tensor, x: torch.Tensor, total: int) -> None:
        show_preview(step, x0, x, total)
        if step in at:
            noisy = x / (1 + sigmas[step] ** 2) ** 0.5 if _explodes(run.model) else x
            out = run.model.model.process_latent_out
            frames[step] = {"noisy image": out(noisy.cpu().float()), "prediction": out(x0.cpu().float())}

    samples = comfy.sample.sample(
        run.model, comfy.sample.prepare_noise(start, run.seed, given.get("batch_index")), run.steps, run.cfg,
        run.sampler, run.scheduler, run.positive, run.negative, start, denoise=run.denoise,
        noise_mask=given.get("noise_mask"), callback=callback, disable_pbar=True, seed=run.seed,
    )  # fmt: skip
    # without noise, x_t is the image itself
    frames[run.steps] = {"noisy image": samples, "prediction": samples}
    # as KSampler: what the empty latent told of its scale holds no longer
    rest = {name: value for name, value in given.items() if not name.startswith("downscale_ratio")}
    return frames, {**rest, "samples": samples}


def _sigmas(run: Run) -> list[float]:
    schedule = comfy.samplers.KSampler(
        run.model, steps=run.steps, device=run.model.load_device, sampler=run.sampler, scheduler=run.scheduler,
        denoise=run.denoise, model_options=run.model.model_options,
    )  # fmt: skip
    return [float(sigma) for sigma in schedule.sigmas]


def _explodes(model: Any) -> bool:
    """Whether x_t is image plus sigma times noise; flow models mix both by shares that sum to one."""
    return not isinstance(model.get_model_object("model_sampling"), comfy.model_sampling.CONST)


def _decoded(run: Run, store: CellStore, latent: torch.Tensor, step: int, kind: str, seconds: float) -> CellResult:
    image = to_pillow(host_nodes.VAEDecode().decode(run.vae, {"samples": latent})[0][0])
    parameters = {**run.numbers(), "after steps": step, "frame": kind}
    return keep_image(store, image, seconds, parameters)
