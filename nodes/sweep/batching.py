"""Fast mode: cells that share their sigmas are sampled in one call, each with its own seed, CFG scale and LoRA weight.

Only what is known to give the same images is batched. Everything else is left to be computed exactly, with a note that
says why. How far a batch is from the host's own KSampler is measured on one cell that is computed both ways.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import torch
from comfy.k_diffusion import sampling as k_diffusion

from .batch_lora import BatchLora
from .cell_store import CannotKeep
from .engine import Job, Sweeping
from .preflight import memory_of
from .sampling import NotFinite, Studio, changes_to_sampling, more_than_a_text
from .shot import Shot

_BROWNIAN = frozenset(
    f"dpmpp_{kind}{place}" for kind in ("sde", "2m_sde", "2m_sde_heun", "3m_sde") for place in ("", "_gpu")
)
_NOISELESS = frozenset(
    [
        "euler",
        "euler_cfg_pp",
        "heun",
        "heunpp2",
        "exp_heun_2_x0",
        "dpm_2",
        "lms",
        "dpm_fast",
        "dpmpp_2m",
        "dpmpp_2m_cfg_pp",
        "ipndm",
        "ipndm_v",
        "deis",
        "gradient_estimation",
        "gradient_estimation_cfg_pp",
        "ddim",
        "uni_pc",
        "uni_pc_bh2",
    ]
)
_NOISY = frozenset(
    [
        "euler_ancestral",
        "euler_ancestral_cfg_pp",
        "exp_heun_2_x0_sde",
        "dpm_2_ancestral",
        "dpmpp_2s_ancestral",
        "dpmpp_2s_ancestral_cfg_pp",
        "ddpm",
        "lcm",
        "res_multistep",
        "res_multistep_cfg_pp",
        "res_multistep_ancestral",
        "res_multistep_ancestral_cfg_pp",
        "er_sde",
        "seeds_2",
        "seeds_3",
        "sa_solver",
        "sa_solver_pece",
    ]
)
BATCHED_SAMPLERS = _BROWNIAN | _NOISELESS | _NOISY


@dataclass(frozen=True)
class Common:
    """Which images of a batch ask for the same predictions at their first step: those that differ in CFG scale alone.

    one: the number of an image of each kind. kind: of each image, which of these it is like.
    """

    one: list[int]
    kind: list[int]

    @classmethod
    def of(cls, shots: Sequence[Shot]) -> Common | None:
        """None where all images differ."""
        asked = [shot.first_asked for shot in shots]
        kinds = list(dict.fromkeys(asked))
        if len(kinds) == len(shots):
            return None
        return cls([asked.index(each) for each in kinds], [kinds.index(each) for each in asked])

    def of_conds(self, conds: Any) -> Any:
        """The host's prepared conditionings for one image of each kind; None stays None."""
        return conds and [
            {**cond, "model_conds": {name: self._of(held) for name, held in cond["model_conds"].items()}}
            for cond in conds
        ]

    def _of(self, held: Any) -> Any:
        few = copy.copy(held)
        # what is one for all has one row
        if torch.is_tensor(held.cond) and held.cond.shape[0] == len(self.kind):
            few.cond = held.cond[self.one]
        return few


class Guider(comfy.samplers.CFGGuider):
    """The host's guider with a CFG scale for each of ``shots``.

    A first step that images have in common is computed once. only: narrows whatever else goes image by image, such as
    the strengths of a LoRA, to images of these numbers.
    """

    def __init__(
        self, model: Any, shots: Sequence[Shot], only: Callable[[Sequence[int]], AbstractContextManager[None]]
    ) -> None:
        super().__init__(model)
        self.set_cfg(shots[0].cfg)
        self.scales = torch.tensor([shot.cfg for shot in shots], dtype=torch.float32)
        self._common = Common.of(shots)
        self._only = only

    def predict_noise(
        self, x: torch.Tensor, timestep: torch.Tensor, model_options: dict[str, Any] | None = None, seed: Any = None
    ) -> torch.Tensor:
        options = model_options or {}
        positive, negative = self.conds["positive"], self.conds["negative"]
        # without guidance the host leaves the negative out, unless a sampler asks for it
        if bool((self.scales == 1).all()) and not options.get("disable_cfg1_optimization", False):
            negative = None
        with_prompt, without = self._predictions([positive, negative], x, timestep, options)
        scales = self.scales.to(x).view(-1, *(1,) * (x.ndim - 1))
        return comfy.samplers.cfg_function(
            self.inner_model, with_prompt, without, scales, x, timestep, options, cond=positive, uncond=negative
        )

    def _predictions(
        self, conds: list[Any], x: torch.Tensor, timestep: torch.Tensor, options: dict[str, Any]
    ) -> Sequence[torch.Tensor]:
        common, self._common = self._common, None
        if common is None or not torch.equal(x[common.one][common.kind], x):
            return comfy.samplers.calc_cond_batch(self.inner_model, conds, x, timestep, options)
        few = [common.of_conds(each) for each in conds]
        with self._only(common.one):
            predictions = comfy.samplers.calc_cond_batch(
                self.inner_model, few, x[common.one], timestep[: len(common.one)], options
            )
        return [each[common.kind] for each in predictions]


class ItemNoise:
    """The noise of every step, each image's drawn as the host draws it for that image alone."""

    def __init__(self, sampler: str, seeds: Sequence[int], one: torch.Tensor, sigmas: torch.Tensor) -> None:
        if sampler in _BROWNIAN:
            low, high = sigmas[sigmas > 0].min(), sigmas.max()
            on_cpu = not sampler.endswith("_gpu")
            self._sources = [
                k_diffusion.BrownianTreeNoiseSampler(one, low, high, seed=seed, cpu=on_cpu) for seed in seeds
            ]
        else:
            self._sources = [k_diffusion.default_noise_sampler(one, seed=seed) for seed in seeds]

    def __call__(self, sigma: Any, sigma_next: Any) -> torch.Tensor:
        return torch.cat([source(sigma, sigma_next) for source in self._sources])


def stack_conditionings(given: Sequence[Any]) -> list[Any]:
    """One conditioning for a batch out of one for each image.

    Raises:
        ValueError: one of them carries more than a text.
    """
    for conditioning in given:
        if more := more_than_a_text(conditioning):
            raise ValueError(f"a conditioning carries more than a text ({more})")
    texts = [conditioning[0][0] for conditioning in given]
    length = math.lcm(*(text.shape[1] for text in texts))
    # repeated tokens share their attention, so nothing changes; the host pads in the same way
    stacked = torch.cat([text.repeat(1, length // text.shape[1], 1) for text in texts])
    pooled = [conditioning[0][1].get("pooled_output") for conditioning in given]
    rest = {} if any(one is None for one in pooled) else {"pooled_output": torch.cat(pooled)}
    return [[stacked, rest]]


def sample_batch(studio: Studio, shots: Sequence[Shot], model: Any) -> torch.Tensor:
    """The latents of several shots of one group in one call, (N, C, H/8, W/8).

    Raises:
        ValueError: the shots' conditionings cannot be stacked.
    """
    first = shots[0]
    latent = studio.latent(first)
    start = comfy.sample.fix_empty_latent_channels(
        model, latent["samples"], latent.get("downscale_ratio_spacial"), latent.get("downscale_ratio_temporal")
    )
    noise = torch.cat([comfy.sample.prepare_noise(start, shot.seed, latent.get("batch_index")) for shot in shots])
    schedule = comfy.samplers.KSampler(
        model, steps=first.steps, device=model.load_device, sampler=first.sampler, scheduler=first.scheduler,
        denoise=first.denoise, model_options=model.model_options,
    )  # fmt: skip
    sampler = comfy.samplers.sampler_object(first.sampler)
    if first.sampler not in _NOISELESS and len(schedule.sigmas) > 1:
        one = torch.zeros_like(start, dtype=torch.float32, device=model.load_device)
        own = ItemNoise(first.sampler, [shot.seed for shot in shots], one, schedule.sigmas)
        sampler.extra_options = {**sampler.extra_options, "noise_sampler": own}
    guider = Guider(studio.clocked(model), shots, partial(BatchLora.only, studio, model))
    words = [studio.conditioning(shot) for shot in shots]
    guider.set_conds(*(stack_conditionings(side) for side in zip(*words, strict=True)))
    samples = guider.sample(
        noise, start.repeat(len(shots), 1, 1, 1), sampler, schedule.sigmas, denoise_mask=latent.get("noise_mask"),
        callback=studio.watch(model, first), disable_pbar=True, seed=first.seed,
    )  # fmt: skip
    return samples.to(
        device=comfy.model_management.intermediate_device(), dtype=comfy.model_management.intermediate_dtype()
    )


def refusal(studio: Studio, shot: Shot) -> str:
    """Why a shot cannot be batched, as a clause; empty where it can."""
    if shot.sampler not in BATCHED_SAMPLERS:
        return f"the sampler {shot.sampler} decides its steps or its noise for a whole batch"
    latent = studio.latent(shot)
    mask = latent.get("noise_mask")
    if mask is not None and shot.sampler == "ddim":
        return "ddim draws the noise below a mask for a whole batch"
    if mask is not None and mask.shape[:-2].numel() != 1:
        return "the latent has several masks, of which an image alone takes the first"
    if latent["samples"].ndim != 4:
        return "the latent has more dimensions than an image"
    if more := changes_to_sampling(studio.parts(shot)[0]):
        return f"the MODEL carries changes to its sampling ({more})"
    return ""


@dataclass(frozen=True)
class Group:
    """Jobs that may share one call. merged: they also share the U-Net's weight, so that it is put into the model."""

    jobs: tuple[Job, ...]
    merged: bool

    @property
    def kind(self) -> tuple[str, str]:
        """Sampler and way, as cells of which the difference from exact ones is of one size."""
        return self.jobs[0].shot.sampler, "merged" if self.merged else "bypass"


def blocks(jobs: Sequence[Job]) -> list[list[Job]]:
    """Neighbours that share checkpoint and LoRA file, so that neither is loaded twice; each key once."""
    once: dict[str, Job] = {}
    for job in jobs:
        if job.keys:
            once.setdefault(job.keys[0], job)
    same = itertools.groupby(once.values(), key=lambda job: (job.shot.checkpoint, job.shot.lora_file))
    return [list(block) for _, block in same]


def groups(studio: Studio, block: Sequence[Job]) -> list[Group]:
    """Jobs of one checkpoint and one LoRA in groups, in the order in which their first ones come."""
    apart = not BatchLora.fits(studio, block[0].shot)
    found: dict[tuple[object, ...], list[Job]] = {}
    for job in block:
        shot = job.shot
        shared = (
            shot.lora_weight_model if apart else None, shot.steps, shot.sampler, shot.scheduler, shot.denoise,
            shot.width, shot.height, math.isclose(shot.cfg, 1.0),
        )  # fmt: skip
        found.setdefault(shared, []).append(job)
    return [Group(tuple(jobs), len({job.shot.lora_weight_model for job in jobs}) == 1) for jobs in found.values()]


def run_fast(sweeping: Sweeping, jobs: Sequence[Job]) -> None:
    """Compute what can be batched, and what is left of each checkpoint and LoRA exactly before the next is loaded."""
    for block in blocks(jobs):
        try:
            for group in _strongest_first(_batchable(sweeping, block)):
                _compute_group(sweeping, group)
        except CannotKeep:
            raise
        except Exception as error:  # whatever it is, the exact way tells it cell by cell
            _left(sweeping, str(error).removesuffix("."))
        finally:
            sweeping.at_once = 1
            BatchLora.forget(sweeping.studio)
        for job in sweeping.missing(block):
            sweeping.exactly(job)


def _left(sweeping: Sweeping, why: str) -> None:
    """Tell why cells are left to the exact way."""
    sweeping.note(f"Computed exactly and not in batches: {why}.")


def _compute_group(sweeping: Sweeping, group: Group) -> None:
    waiting = list(group.jobs)
    shot = waiting[0].shot
    size = memory_of(sweeping.studio.parts(shot)[0], shot, fast=True).at_once
    if size == 1:
        _left(sweeping, "there is no free memory for two cells at once")
    while waiting and size > 1:
        try:
            _compute(sweeping, waiting[:size], group)
            waiting = waiting[size:]
        except comfy.model_management.OOM_EXCEPTION:
            comfy.model_management.soft_empty_cache()
            size //= 2
            then = f"smaller ones of {size} follow" if size > 1 else "the rest is computed exactly"
            sweeping.note(f"A batch did not fit into memory; {then}.")
            # what was decoded before the memory ran out is on disk
            waiting = sweeping.missing(waiting)


def _batchable(sweeping: Sweeping, block: Sequence[Job]) -> list[Group]:
    found, alone = [], 0
    for group in groups(sweeping.studio, block):
        if len(group.jobs) < 2:
            alone += 1
        elif reason := refusal(sweeping.studio, group.jobs[0].shot):
            _left(sweeping, reason)
        else:
            found.append(group)
    if alone:
        weight = "" if BatchLora.fits(sweeping.studio, block[0].shot) else "LoRA weight (of a LoRA of this form), "
        _left(
            sweeping,
            f"{alone} of the cells, with which no other shares {weight}steps, sampler, scheduler, denoise, size, and "
            "whether the CFG scale is 1",
        )
    return found


def _strongest_first(found: Sequence[Group]) -> list[Group]:
    """For each kind the cell under the strongest guidance and LoRA comes first, in its group and in all.

    Both raise differences, so that this is the cell to measure them on before any other is kept.
    """
    strongest: dict[tuple[str, str], Job] = {}
    for group in found:
        known = [strongest[group.kind]] if group.kind in strongest else []
        strongest[group.kind] = max([*known, *group.jobs], key=_strength)
    chosen = {id(job) for job in strongest.values()}
    ordered = [replace(group, jobs=tuple(sorted(group.jobs, key=lambda job: id(job) not in chosen))) for group in found]
    return sorted(ordered, key=lambda group: id(group.jobs[0]) not in chosen)


def _strength(job: Job) -> tuple[float, float]:
    return job.shot.cfg, abs(job.shot.lora_weight_model)


def _compute(sweeping: Sweeping, chunk: Sequence[Job], group: Group) -> None:
    studio, shots = sweeping.studio, [job.shot for job in chunk]
    before = studio.busy
    # one weight for all is merged into the model, as the exact way has it
    model = studio.model(shots[0]) if group.merged else BatchLora.model(studio, shots)
    sweeping.at_once = len(chunk)
    latents = sample_batch(studio, shots, model)
    sampled = (studio.busy - before) / len(chunk)
    unchecked = group.kind not in sweeping.checks
    for number, job in enumerate(chunk):
        before, one = studio.busy, latents[number : number + 1]
        try:
            image = studio.develop(one, job.shot)
        except NotFinite:
            # a LoRA without numbers reaches every weight of a batch, also 0
            _left(sweeping, "cells of which a batch gave numbers that are not finite")
            continue
        seconds = sampled + studio.busy - before
        # before the first of its kind is kept
        if unchecked:
            _check(sweeping, job, group, one, image)
            unchecked = False
        sweeping.keep(job, image, "fast", seconds, sweeping.checks.get(group.kind))


def _check(sweeping: Sweeping, job: Job, group: Group, latents: torch.Tensor, image: torch.Tensor) -> None:
    """Compute a cell of which there are latents and image exactly as well, and tell how far apart the two are."""
    sweeping.at_once = 0
    before = sweeping.studio.busy
    try:
        check = _compared(sweeping.studio, job, latents, image)
    except Exception as error:
        sweeping.note(f"How far fast is from exact could not be measured: {str(error).removesuffix('.')}.")
        return
    finally:
        sweeping.checking += sweeping.studio.busy - before
    sweeping.checks[group.kind] = check
    sweeping.note(
        f"Fast against exact on one cell ({job.cell}; {job.shot.sampler}, CFG scale {job.shot.cfg:g}, LoRA weight "
        f"{job.shot.lora_weight_model:g}): latents differ by {check['relative_latent_error']:.1e} of their norm, "
        f"pixels by at most {check['most_8_bit_difference']} of 255."
    )


def _compared(studio: Studio, job: Job, fast: torch.Tensor, image: torch.Tensor) -> dict[str, object]:
    exact = studio.expose(job.shot)
    error = float((fast.double() - exact.double()).norm() / exact.double().norm().clamp_min(1e-12))
    first, second = (each[0].mul(255).byte().int() for each in (image, studio.develop(exact, job.shot)))
    return {
        "cell": str(job.cell),
        "sampler": job.shot.sampler,
        "relative_latent_error": error,
        "most_8_bit_difference": int((first - second).abs().max()),
    }
