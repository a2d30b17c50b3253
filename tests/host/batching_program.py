"""Runs ComfyUI as a library and prints, as JSON, how far batched latents are from the host's KSampler's.

Started by test_batching.py in a process of its own: `batching_program.py COMFYUI ROOT BASE`.
"""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from typing import Any

from comfy_library import ROOT, start

start("--fp32-unet")

import comfy.samplers  # noqa: E402
import comfy.sd  # noqa: E402
import torch  # noqa: E402

batching: Any = importlib.import_module("pack.nodes.sweep.batching")
batch_lora: Any = importlib.import_module("pack.nodes.sweep.batch_lora")
sampling: Any = importlib.import_module("pack.nodes.sweep.sampling")
shots_of: Any = importlib.import_module("pack.nodes.sweep.shot")


def lora_for(model: Any, clip: Any, every: int = 1) -> dict[str, torch.Tensor]:
    """Random low-rank pairs for attention projections, convolutions and the text encoders: each, or every so many."""
    generator = torch.Generator().manual_seed(0)
    keys = comfy.lora.model_lora_keys_unet(model.model, {}) | comfy.lora.model_lora_keys_clip(clip.cond_stage_model, {})
    weights = {**model.model.state_dict(), **clip.cond_stage_model.state_dict()}
    starts = ("lora_unet_input", "lora_unet_output", "lora_unet_middle", "lora_te")
    fit = [name for name, key in keys.items() if name.startswith(starts) and key in weights]
    out = {}
    for name in [name for name in fit if weights[keys[name]].ndim in (2, 4)][::every]:
        weight = weights[keys[name]]
        kernel = weight.shape[2:]
        down = torch.randn(2, *weight.shape[1:2], *kernel, generator=generator)
        up = torch.randn(weight.shape[0], 2, *(1,) * len(kernel), generator=generator)
        scale = 0.2 * weight.float().std() / 2**0.5
        out |= {
            f"{name}.lora_down.weight": down,
            f"{name}.lora_up.weight": up * scale,
            f"{name}.alpha": torch.tensor(2.0),
        }
    return out


def error(fast: torch.Tensor, exact: torch.Tensor) -> float:
    return float((fast.double() - exact.double()).norm() / exact.double().norm())


def worst(studio: Any, shots: list[Any]) -> float:
    """The largest relative error of a batch's images against the same images one by one."""
    return furthest(studio, shots, [studio.expose(shot) for shot in shots])


def furthest(studio: Any, shots: list[Any], exact: list[torch.Tensor]) -> float:
    """As ``worst``, against latents that are there."""
    model = batch_lora.BatchLora.model(studio, shots)
    fast = batching.sample_batch(studio, shots, model)
    return max(error(fast[number : number + 1], one) for number, one in enumerate(exact))


def every_sampler(studio: Any, base: Any, varied: list[Any]) -> tuple[dict[str, float], dict[str, str]]:
    """``worst`` of each sampler that is batched, and why the others are not.

    The exact images come first, those of one weight together: a LoRA is not merged for every image.
    """
    refused = {}
    for sampler in comfy.samplers.KSampler.SAMPLERS:
        if reason := batching.refusal(studio, replace(base, sampler=sampler)):
            refused[sampler] = reason
    samplers = [sampler for sampler in comfy.samplers.KSampler.SAMPLERS if sampler not in refused]
    exact = [[studio.expose(replace(shot, sampler=sampler)) for sampler in samplers] for shot in varied]
    accepted = {}
    for sampler, *images in zip(samplers, *exact, strict=True):
        accepted[sampler] = furthest(studio, [replace(shot, sampler=sampler) for shot in varied], images)
    return accepted, refused


@torch.inference_mode()
def measure() -> dict[str, Any]:
    loaded = comfy.sd.load_checkpoint_guess_config(str(ROOT / "demo" / "tiny_sdxl.safetensors"))
    model, clip, vae = loaded[:3]
    subject = sampling.Subject(model, clip, vae, lora_for(model, clip))
    studio = sampling.Studio(subject)
    comfy.utils.set_progress_bar_enabled(False)
    base = shots_of.Shot(
        prompt="moon", negative="sun", seed=0, steps=3, cfg=1.0, sampler="euler", scheduler="karras", denoise=1.0,
        width=64, height=64, lora_weight_model=1.0, lora_weight_clip=1.0,
    )  # fmt: skip
    varied = [
        replace(base, seed=seed, cfg=cfg, lora_weight_model=weight, lora_weight_clip=weight)
        for seed, cfg, weight in [(3, 4.0, 0.5), (4, 12.0, 1.0)]
    ]
    found: dict[str, Any] = {}
    # samplers and layers do not meet: every layer has a LoRA below, where one sampler is asked
    few = sampling.Studio(sampling.Subject(model, clip, vae, lora_for(model, clip, every=20)))
    found["accepted"], found["refused"] = every_sampler(few, base, [*varied, replace(varied[0], cfg=9.0)])
    for sampler in ("euler_ancestral", "dpmpp_2m_cfg_pp", "dpmpp_sde"):
        shots = [replace(shot, sampler=sampler, cfg=1.0) for shot in varied]
        found[f"{sampler} without guidance"] = worst(studio, shots)
    found["prompts of other lengths"] = worst(
        studio, [replace(varied[0], prompt="moon"), replace(varied[1], prompt="moon and sea, " * 40, negative="x")]
    )
    found["part of the noise"] = worst(studio, [replace(shot, denoise=0.5) for shot in varied])
    found["another size"] = worst(studio, [replace(shot, width=96, height=64) for shot in varied])
    # of four images two kinds, whose first step is asked for once: six images in two steps, with and without the prompt
    seen: list[int] = []
    watching = model.model.diffusion_model.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[0]))
    alike = [replace(shot, seed=7, cfg=cfg, steps=2) for shot in varied for cfg in (3.0, 9.0)]
    batching.sample_batch(studio, alike, batch_lora.BatchLora.model(studio, alike))
    watching.remove()
    found["images in two steps of four"] = sum(seen) / 2
    found["a common first step"] = worst(studio, alike)
    # a latent to start from, half of it masked
    start = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(1, 64, 64)
    mask[:, :, 32:] = 1
    inpainting = sampling.Studio(replace(subject, latent={"samples": start, "noise_mask": mask}))
    found["inpainting"] = worst(inpainting, [replace(shot, denoise=0.7) for shot in varied])
    two_masks = replace(subject, latent={"samples": start, "noise_mask": torch.cat([mask, 1 - mask])})
    found["two masks"] = batching.refusal(sampling.Studio(two_masks), base)
    found["one mask"] = batching.refusal(inpainting, base)
    found["ddim with a mask"] = batching.refusal(inpainting, replace(base, sampler="ddim"))
    found["the difference that weights make"] = error(
        *(studio.expose(replace(base, lora_weight_model=w)) for w in (0, 1))
    )
    return found


print(json.dumps(measure()))
