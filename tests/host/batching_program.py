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

batching: Any = importlib.import_module("pack.nodes.batching")
batch_lora: Any = importlib.import_module("pack.nodes.batch_lora")
sampling: Any = importlib.import_module("pack.nodes.sampling")
shots_of: Any = importlib.import_module("pack.nodes.shot")


def lora_for(model: Any, clip: Any) -> dict[str, torch.Tensor]:
    """Random low-rank pairs for every attention projection and convolution, and for the text encoders."""
    generator = torch.Generator().manual_seed(0)
    keys = comfy.lora.model_lora_keys_unet(model.model, {}) | comfy.lora.model_lora_keys_clip(clip.cond_stage_model, {})
    weights = {**model.model.state_dict(), **clip.cond_stage_model.state_dict()}
    out = {}
    for name, key in keys.items():
        wanted = name.startswith(("lora_unet_input", "lora_unet_output", "lora_unet_middle", "lora_te"))
        if not wanted or key not in weights or weights[key].ndim not in (2, 4):
            continue
        weight = weights[key]
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
    model = batch_lora.BatchLora.model(studio, shots)
    fast = batching.sample_batch(studio, shots, model)
    return max(error(fast[number : number + 1], studio.expose(shot)) for number, shot in enumerate(shots))


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
    found: dict[str, Any] = {"accepted": {}, "refused": {}}
    for sampler in comfy.samplers.KSampler.SAMPLERS:
        if reason := batching.refusal(studio, replace(base, sampler=sampler)):
            found["refused"][sampler] = reason
            continue
        found["accepted"][sampler] = worst(studio, [replace(shot, sampler=sampler) for shot in varied])
    for sampler in ("euler_ancestral", "dpmpp_2m_cfg_pp", "dpmpp_sde"):
        shots = [replace(shot, sampler=sampler, cfg=1.0) for shot in varied]
        found[f"{sampler} without guidance"] = worst(studio, shots)
    found["prompts of other lengths"] = worst(
        studio, [replace(varied[0], prompt="moon"), replace(varied[1], prompt="moon and sea, " * 40, negative="x")]
    )
    found["part of the noise"] = worst(studio, [replace(shot, denoise=0.5) for shot in varied])
    found["another size"] = worst(studio, [replace(shot, width=96, height=64) for shot in varied])
    # a latent to start from, half of it masked
    start = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(1, 64, 64)
    mask[:, :, 32:] = 1
    inpainting = sampling.Studio(replace(subject, latent={"samples": start, "noise_mask": mask}))
    found["inpainting"] = worst(inpainting, [replace(shot, denoise=0.7) for shot in varied])
    found["ddim with a mask"] = batching.refusal(inpainting, replace(base, sampler="ddim"))
    found["the difference that weights make"] = error(
        *(studio.expose(replace(base, lora_weight_model=w)) for w in (0, 1))
    )
    return found


print(json.dumps(measure()))
