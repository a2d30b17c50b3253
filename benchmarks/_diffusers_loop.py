"""The loop of diffusers' own SDXL LoRA script, made of the same calls: diffusers, peft and accelerate, nothing of ours.

    python _diffusers_loop.py CHECKPOINT SIZE STEPS RANK DEVICE

Started by train.py, which reads its lines: ``loaded`` once everything is in memory, ``step 3/8`` after each step, and
``over`` when it has let go of all that it trained. It waits for a line on its standard input before it trains, and
before it ends.

What `train_dreambooth_lora_sdxl.py` of diffusers does by default: adapters on the attention alone (to_q, to_k, to_v,
to_out.0: 560 modules), initialised as Gaussian, alpha as the rank, fp32 under accelerate's bf16, AdamW, clipping to 1.
Latents and text conditioning are random here: what is measured are its steps.
"""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import _pack  # noqa: F401 - makes `pack` importable
import torch
from accelerate import Accelerator
from diffusers import DDPMScheduler
from diffusers.training_utils import cast_training_params
from pack.trainer.sdxl.parts import build_unet
from pack.trainer.sdxl.single_file import SingleFile
from peft import LoraConfig
from torch.nn import functional as F


def adapted(unet: torch.nn.Module, rank: int) -> list[torch.nn.Parameter]:
    """The parameters that are trained."""
    unet.add_adapter(
        LoraConfig(
            r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=["to_k", "to_q", "to_v", "to_out.0"]
        )
    )
    cast_training_params(unet, dtype=torch.float32)
    return [weight for weight in unet.parameters() if weight.requires_grad]


def train(unet: torch.nn.Module, accelerator: Accelerator, size: int, steps: int, rank: int) -> None:
    weights = adapted(unet, rank)
    optimizer = torch.optim.AdamW(weights, lr=1e-4, weight_decay=1e-2)
    unet, optimizer = accelerator.prepare(unet, optimizer)
    noise_of = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    device, dtype = accelerator.device, torch.bfloat16
    latents = torch.randn(1, 4, size // 8, size // 8, device=device)
    context = torch.randn(1, 77, 2048, device=device, dtype=dtype)
    extra = {
        "text_embeds": torch.randn(1, 1280, device=device, dtype=dtype),
        "time_ids": torch.tensor([[size, size, 0, 0, size, size]], device=device, dtype=dtype),
    }
    for step in range(steps):
        with accelerator.accumulate(unet):
            noise = torch.randn_like(latents)
            timesteps = torch.randint(0, 1000, (1,), device=device)
            noisy = noise_of.add_noise(latents, noise, timesteps)
            guess = unet(noisy, timesteps, context, added_cond_kwargs=extra, return_dict=False)[0]
            loss = F.mse_loss(guess.float(), noise.float())
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            optimizer.zero_grad()
        # the script shows the loss of every step
        print(f"step {step + 1}/{steps} {loss.detach().item():.4f}", flush=True)


def main(checkpoint: Path, size: int, steps: int, rank: int, device: str) -> None:
    accelerator = Accelerator(mixed_precision="bf16", cpu=device == "cpu")
    stored = SingleFile(checkpoint).unet()
    unet = build_unet({name: tensor.to(accelerator.device, torch.bfloat16) for name, tensor in stored.items()})
    del stored
    print("loaded", flush=True)
    sys.stdin.readline()
    train(unet, accelerator, size, steps, rank)
    del unet
    gc.collect()
    print("over", flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    path, *numbers, kind = sys.argv[1:]
    main(Path(path), *map(int, numbers), kind)
