"""Make ``demo/tiny_sdxl.safetensors``: ``python demo/pretrain.py --tokenizer <ComfyUI>/comfy/sd1_tokenizer``.

Stages, each seeded and resumable: a TAESD-shaped autoencoder on crops of the scenes, the U-Net together with
both text encoders on the scenes' latents, and, if asked for, the decoder once more for sharpness.
State is kept in ``--work`` every minute; run the same command again to go on. On two CPU cores it takes about an hour
and a half, on a GPU minutes. ``--start FILE`` begins with the weights of a finished checkpoint instead of random ones.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import numpy as np  # noqa: E402
import parts  # noqa: E402
import scenes  # noqa: E402
import sizes  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from trainer.sdxl.checkpoint import (  # noqa: E402
    TE1_PREFIX,
    TE2_PREFIX,
    UNET_PREFIX,
    VAE_PREFIX,
    canonical_text_names,
    join,
    transformers_state,
)
from trainer.sdxl.precision import compute_dtype  # noqa: E402
from trainer.sdxl.unet_names import to_original  # noqa: E402


@dataclass(frozen=True)
class Plan:
    """What is trained, for how long. Steps are optimizer steps."""

    work: Path
    tokenizer: Path
    out: Path
    device: str
    seed: int = 7
    scenes: int = 5000
    vae_steps: int = 2000
    vae_batch: int = 16
    vae_crop: int = 64
    vae_lr: float = 1.5e-3
    decoder_steps: int = 0
    decoder_lr: float = 6e-4  # only where decoder_steps is given: the shipped weights are made without
    unet_steps: int = 1400
    unet_batch: int = 64
    unet_lr: float = 1e-3
    start: Path | None = None

    def autocast(self) -> torch.autocast:
        """bf16 where the device computes in it."""
        dtype = compute_dtype("bf16", torch.device(self.device))
        return torch.autocast(self.device, torch.bfloat16, enabled=dtype == torch.bfloat16)


class Run:
    """A module under training: averaged weights, cosine rate, and a state on disk that it can go on from."""

    EVERY_SECONDS = 60

    def __init__(self, name: str, module: nn.Module, steps: int, lr: float, plan: Plan) -> None:
        self.path = plan.work / f"{name}.safetensors"
        self.name, self.module, self.steps = name, module.to(plan.device), steps
        self.optimizer = torch.optim.AdamW(module.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=1e-3)
        warmup = min(100, steps // 10)
        self.schedule = torch.optim.lr_scheduler.SequentialLR(
            self.optimizer,
            [
                torch.optim.lr_scheduler.LinearLR(self.optimizer, 0.02, total_iters=warmup),
                torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, steps - warmup, eta_min=lr * 0.01),
            ],
            [warmup],
        )
        self.average = {n: p.detach().clone() for n, p in module.named_parameters()}
        self.step, self.saved, self.began, self.loss = 0, time.time(), time.time(), 0.0
        if self.path.exists():
            self._load()

    def _load(self) -> None:
        state = load_file(self.path)
        self.step = int(state.pop("step"))
        names = [n for n, _ in self.module.named_parameters()]
        with torch.no_grad():
            for name, parameter in self.module.named_parameters():
                parameter.copy_(state[f"weight.{name}"])
                self.average[name].copy_(state[f"average.{name}"])
        moments = {
            i: {k: state[f"{k}.{n}"] for k in ("exp_avg", "exp_avg_sq")} | {"step": torch.tensor(float(self.step))}
            for i, n in enumerate(names)
        }
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        for _ in range(self.step):
            self.schedule.step()
        print(f"{self.name}: going on from step {self.step}", flush=True)

    def save(self) -> None:
        state = {"step": torch.tensor(self.step)}
        for name, parameter in self.module.named_parameters():
            held = self.optimizer.state.get(parameter, {})
            state[f"weight.{name}"] = parameter.detach()
            state[f"average.{name}"] = self.average[name]
            for key in ("exp_avg", "exp_avg_sq"):
                state[f"{key}.{name}"] = held.get(key, torch.zeros_like(parameter))
        scratch = self.path.with_suffix(".part")
        save_file({k: v.contiguous() for k, v in state.items()}, scratch)
        os.replace(scratch, self.path)
        self.saved = time.time()

    def update(self, loss: torch.Tensor) -> None:
        """One optimizer step on a loss, with clipping, averaging, a line every 50 steps and a state every minute."""
        loss.backward()
        nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.step()
        self.step += 1
        decay = min(0.998, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            for name, parameter in self.module.named_parameters():
                self.average[name].lerp_(parameter, 1 - decay)
        self.loss = loss.item() if self.loss == 0 else 0.95 * self.loss + 0.05 * loss.item()
        if self.step % 50 == 0:
            minutes = (time.time() - self.began) / 60
            print(f"{self.name} {self.step}/{self.steps} loss {self.loss:.4f} {minutes:.1f} min", flush=True)
        if time.time() - self.saved > self.EVERY_SECONDS or self.step == self.steps:
            self.save()

    def use_average(self) -> nn.Module:
        with torch.no_grad():
            for name, parameter in self.module.named_parameters():
                parameter.copy_(self.average[name])
        return self.module.eval()


def to_pixels(images: np.ndarray, device: str) -> torch.Tensor:
    """(N, H, W, 3) uint8 to (N, 3, H, W) float32 in [0, 1]."""
    return (
        torch.from_numpy(images)
        .to(device)
        .permute(0, 3, 1, 2)
        .float()
        .div(255)
        .contiguous(memory_format=torch.channels_last)
    )


def edges(x: torch.Tensor) -> torch.Tensor:
    """Horizontal and vertical differences, flattened: a loss on them keeps outlines sharp."""
    return torch.cat([(x[..., 1:] - x[..., :-1]).flatten(), (x[..., 1:, :] - x[..., :-1, :]).flatten()])


def autoencoder_loss(vae: parts.Autoencoder, pixels: torch.Tensor) -> torch.Tensor:
    """L1 on pixels and on edges, with latents held near a unit normal and the decoder made used to small errors."""
    latents = vae.taesd_encoder(pixels).float()
    noisy = latents + 0.03 * torch.randn_like(latents)
    out = vae.taesd_decoder(noisy.to(pixels.dtype)).float()
    mean, std = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
    spread = (mean.square() + (std - 1).square()).mean() + F.relu(latents.abs() - 2.7).square().mean()
    return F.l1_loss(out, pixels) + 1.5 * F.l1_loss(edges(out), edges(pixels)) + 0.02 * spread


class Crops:
    """Seeded batches of square crops: scenes, and one in six of a rough ball that no scene shows."""

    def __init__(self, plan: Plan, images: np.ndarray) -> None:
        self.plan, self.images = plan, images
        self.discs = np.stack([scenes.textured_disc(np.random.default_rng(i)) for i in range(600)])

    def batch(self, stage: int, step: int) -> torch.Tensor:
        """(N, 3, crop, crop) float32 in [0, 1] for one step of one stage."""
        crop, rng = self.plan.vae_crop, np.random.default_rng((self.plan.seed, stage, step))
        torch.manual_seed(self.plan.seed * 1_000_003 + step)
        batch = []
        for i in range(self.plan.vae_batch):
            source = self.discs if i % 6 == 5 else self.images
            y, x = rng.integers(0, source.shape[1] - crop + 1, 2)
            cut = source[rng.integers(len(source)), y : y + crop, x : x + crop]
            batch.append(cut[:, ::-1] if rng.random() < 0.5 else cut)
        return to_pixels(np.stack(batch), self.plan.device)


def part_of(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name[len(prefix) :]: tensor for name, tensor in state.items() if name.startswith(prefix)}


def adopt(module: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Copy a checkpoint's weights, by the module's own names, into its fp32 parameters."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(weights[name])


def adopt_denoiser(model: Denoiser, state: dict[str, torch.Tensor]) -> None:
    unet = part_of(state, UNET_PREFIX)
    adopt(model.unet, {ours: unet[theirs] for ours, theirs in to_original(model.unet.state_dict()).items()})
    texts = (part_of(state, TE1_PREFIX), transformers_state(part_of(state, TE2_PREFIX)))
    for encoder, weights in zip((model.te1, model.te2), texts, strict=True):
        names = canonical_text_names(name for name, _ in encoder.named_parameters())
        adopt(encoder, {ours: weights[theirs] for ours, theirs in names.items()})


def train_autoencoder(plan: Plan, crops: Crops) -> parts.Autoencoder:
    vae = parts.Autoencoder().to(memory_format=torch.channels_last)
    if plan.start:
        adopt(vae, part_of(load_file(plan.start), VAE_PREFIX))
    if not plan.vae_steps:
        return vae.to(plan.device).eval()
    run = Run("vae", vae, plan.vae_steps, plan.vae_lr, plan)
    while run.step < plan.vae_steps:
        pixels = crops.batch(1, run.step)
        with plan.autocast():
            loss = autoencoder_loss(vae, pixels)
        run.update(loss)
    return run.use_average()


def refine_decoder(plan: Plan, vae: parts.Autoencoder, crops: Crops) -> None:
    """More steps for the decoder alone: sharper pictures, the same latents."""
    # the decoder starts from the averaged weights, but a saved state of this stage goes before them
    run = Run("decoder", vae.taesd_decoder, plan.decoder_steps, plan.decoder_lr, plan)
    while run.step < plan.decoder_steps:
        pixels = crops.batch(3, run.step)
        with plan.autocast():
            with torch.no_grad():
                latents = vae.taesd_encoder(pixels)
            out = vae.taesd_decoder(latents + 0.03 * torch.randn_like(latents)).float()
        run.update(F.l1_loss(out, pixels) + 2 * F.l1_loss(edges(out), edges(pixels)))
    run.use_average()


@torch.no_grad()
def encode(plan: Plan, vae: parts.Autoencoder, images: np.ndarray) -> torch.Tensor:
    """Latents of unit scale, (N, 4, H/8, W/8) float32."""
    out = []
    for start in range(0, len(images), 32):
        pixels = to_pixels(images[start : start + 32], plan.device)
        with plan.autocast():
            out.append(vae.taesd_encoder(pixels).float())
    return torch.cat(out)


class Denoiser(nn.Module):
    """U-Net and text encoders as one module, so that one optimizer holds them."""

    def __init__(self) -> None:
        super().__init__()
        self.unet = parts.unet().to(memory_format=torch.channels_last)
        self.te1, self.te2 = parts.text_encoders()

    def forward(self, x: torch.Tensor, t: torch.Tensor, ids: torch.Tensor, time_ids: torch.Tensor) -> torch.Tensor:
        """Noise in ``x`` (N, 4, h, w) at timesteps ``t`` (N,); ``ids`` (2, N, 77) token ids, ``time_ids`` (N, 6)."""
        first = self.te1(ids[0], output_hidden_states=True)
        second = self.te2(ids[1], output_hidden_states=True)
        context = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        extra = {"text_embeds": second.text_embeds, "time_ids": time_ids}
        return self.unet(x, t, encoder_hidden_states=context, added_cond_kwargs=extra).sample


class Tokens:
    """Captions to SDXL's two rows of 77 ids: CLIP-L is padded with its end token, bigG with 0."""

    END = 49407

    def __init__(self, folder: Path) -> None:
        from transformers import CLIPTokenizer

        self.tokenizer = CLIPTokenizer.from_pretrained(str(folder))

    def __call__(self, captions: list[str], rng: np.random.Generator | None = None) -> torch.Tensor:
        """(2, N, 77) int64. With ``rng``, words without meaning are strewn in, to be passed over."""
        rows = []
        for text in captions:
            ids = self.tokenizer(text)["input_ids"][1:-1]
            if rng is not None and ids and rng.random() < 0.2:
                for _ in range(rng.integers(1, 5)):
                    ids.insert(int(rng.integers(len(ids) + 1)), int(rng.integers(1000, 49000)))
            rows.append([49406, *ids[:75], self.END])
        padded = [[r + [fill] * (77 - len(r)) for r in rows] for fill in (self.END, 0)]
        return torch.tensor(padded)


def size_conditioning(rng: np.random.Generator, count: int) -> torch.Tensor:
    """(N, 6) original, crop and target size in pixels; original sizes vary so that none is strange to the model."""
    out = np.zeros((count, 6), np.float32)
    out[:, 0:2] = np.where(rng.random((count, 1)) < 0.6, 128, rng.integers(96, 1025, (count, 1)))
    out[:, 4:6] = 128
    return torch.from_numpy(out)


def noise_levels() -> torch.Tensor:
    """ᾱ of DDPM's scaled-linear schedule as SDXL has it, (1000,) float32."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0).float()


def train_denoiser(plan: Plan, vae: parts.Autoencoder, images: np.ndarray, captions: list[str]) -> Denoiser:
    torch.manual_seed(plan.seed)
    model = Denoiser()
    if plan.start:
        adopt_denoiser(model, load_file(plan.start))
    run = Run("unet", model, plan.unet_steps, plan.unet_lr, plan)
    if run.step == plan.unet_steps:
        return run.use_average()
    latents = encode(plan, vae, images).cpu()
    print(f"latents: mean {latents.mean():.3f}, std {latents.std():.3f}", flush=True)
    tokens, alpha_bar = Tokens(plan.tokenizer), noise_levels().to(plan.device)
    while run.step < plan.unet_steps:
        rng = np.random.default_rng((plan.seed, 2, run.step))
        torch.manual_seed(plan.seed * 1_000_003 + run.step)
        pick = rng.integers(len(latents), size=plan.unet_batch)
        words = [captions[i] if rng.random() > 0.1 else "" for i in pick]
        x0 = latents[torch.from_numpy(pick)].to(plan.device)
        t = torch.randint(0, 1000, (plan.unet_batch,), device=plan.device)
        noise = torch.randn_like(x0)
        a = alpha_bar[t].view(-1, 1, 1, 1)
        noisy = (a.sqrt() * x0 + (1 - a).sqrt() * noise).contiguous(memory_format=torch.channels_last)
        ids, time_ids = tokens(words, rng).to(plan.device), size_conditioning(rng, len(pick)).to(plan.device)
        with plan.autocast():
            guess = model(noisy, t, ids, time_ids)
        # min-SNR-5 (Hang et al., 2023): most of what is seen is settled at the higher noise levels
        weight = (5 * (1 - alpha_bar[t]) / alpha_bar[t]).clamp(max=1)
        run.update(((guess.float() - noise).square().mean(dim=(1, 2, 3)) * weight).mean())
    return run.use_average()


def export(plan: Plan, vae: parts.Autoencoder, model: Denoiser) -> None:
    """Write the checkpoint in SDXL's original layout, fp16."""
    first = dict(vae.state_dict()) | {"vae_scale": torch.tensor(sizes.LATENT_SCALE), "vae_shift": torch.tensor(0.0)}
    te1, te2 = ({k: v for k, v in m.state_dict().items() if "position_ids" not in k} for m in (model.te1, model.te2))
    state = join(model.unet.state_dict(), te1, te2, first)
    half = {k: v.detach().to("cpu", torch.float16).contiguous() for k, v in state.items()}
    scratch = plan.out.with_suffix(".part")
    save_file(half, scratch, metadata={"modelspec.title": "Mjesec tiny SDXL", "modelspec.license": "MIT"})
    os.replace(scratch, plan.out)
    print(f"{plan.out}: {plan.out.stat().st_size / 1e6:.1f} MB", flush=True)


def pretrain(plan: Plan, stage: str) -> None:
    plan.work.mkdir(parents=True, exist_ok=True)
    print(f"drawing {plan.scenes} scenes", flush=True)
    images, captions = scenes.scenes(plan.scenes, plan.seed)
    crops = Crops(plan, images)
    vae = train_autoencoder(plan, crops)
    if stage == "vae":
        return
    model = train_denoiser(plan, vae, images, captions)
    if plan.decoder_steps:
        refine_decoder(plan, vae, crops)
    # the checkpoint's latents are what SDXL's latent format makes of them: unit scale after the factor 0.13025
    export(plan, vae, model)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder with CLIP's vocab.json and merges.txt")
    parser.add_argument("--work", type=Path, default=Path("pretrain-work"), help="where the state between runs is kept")
    parser.add_argument("--out", type=Path, default=HERE / "tiny_sdxl.safetensors")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--stage", choices=("all", "vae"), default="all")
    parser.add_argument(
        "--start", type=Path, help="a finished checkpoint to begin with; with --vae-steps 0 for the U-Net alone"
    )
    parser.add_argument("--unet-lr", type=float, default=Plan.unet_lr)
    parser.add_argument("--vae-steps", type=int, default=Plan.vae_steps)
    parser.add_argument("--unet-steps", type=int, default=Plan.unet_steps)
    parser.add_argument("--decoder-steps", type=int, default=Plan.decoder_steps)
    args = parser.parse_args()
    pretrain(
        Plan(
            args.work,
            args.tokenizer,
            args.out,
            args.device,
            vae_steps=args.vae_steps,
            unet_steps=args.unet_steps,
            decoder_steps=args.decoder_steps,
            unet_lr=args.unet_lr,
            start=args.start,
        ),
        args.stage,
    )


if __name__ == "__main__":
    main()
