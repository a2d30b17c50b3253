"""Make ``demo/contact_sheet.png``: ``python demo/contact_sheet.py --tokenizer <ComfyUI>/comfy/sd1_tokenizer``.

Sixteen prompts through the tiny SDXL at 128×128, CFG scale 5, 25 Euler ancestral steps, prompt number n with seed n:
what the demo model knows, at a glance. No ComfyUI is involved.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import parts  # noqa: E402
import sizes  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from pretrain import Tokens  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from figures import contact_sheet  # noqa: E402
from trainer.sdxl.checkpoint import TE1_PREFIX, TE2_PREFIX, UNET_PREFIX, VAE_PREFIX, transformers_state  # noqa: E402
from trainer.sdxl.parts import (  # noqa: E402
    Parts,
    build_text_encoder,
    build_unet,
    encode_text,
    scaled_linear_alpha_bar,
    size_ids,
)

PROMPTS = (
    "moon",
    "sun",
    "pine trees at night",
    "moon over pine trees",
    "sea",
    "moon over the sea at night",
    "sun over the sea, sunset",
    "crescent moon",
    "mountains at day",
    "full moon over mountains",
    "desert at sunset",
    "snow at night",
    "green hills at day",
    "sun over green hills",
    "sky with clouds at day",
    "half moon with clouds",
)
SIZE, CFG, STEPS = 128, 5.0, 25


def under(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The tensors whose names begin with ``prefix``, which is cut off, in float32."""
    return {name[len(prefix) :]: tensor.float() for name, tensor in state.items() if name.startswith(prefix)}


def load(path: Path) -> tuple[Parts, parts.Autoencoder]:
    """The checkpoint's networks."""
    state = load_file(path)
    heads = sizes.TEXT_CONFIG["num_attention_heads"]
    first, second = under(state, TE1_PREFIX), transformers_state(under(state, TE2_PREFIX))
    vae = parts.Autoencoder()
    vae.load_state_dict({k: v for k, v in under(state, VAE_PREFIX).items() if k.startswith("taesd_")})
    networks = Parts(
        unet=build_unet(under(state, UNET_PREFIX), sizes.HEAD_CHANNELS),
        te1=build_text_encoder(first, projection=False, heads=heads),
        te2=build_text_encoder(second, projection=True, heads=heads),
        alpha_bar=scaled_linear_alpha_bar(),
    )
    for module in networks.modules():
        module.eval()
    return networks, vae


def noise_levels(alpha_bar: torch.Tensor, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Timesteps (steps,) evenly from 999 to 0, and σ at them with a 0 at the end, (steps + 1,)."""
    times = torch.linspace(len(alpha_bar) - 1, 0, steps)
    logs = ((1 - alpha_bar) / alpha_bar).sqrt().log()
    low = times.floor().long()
    high = (low + 1).clamp(max=len(logs) - 1)
    sigmas = torch.lerp(logs[low], logs[high], times - low).exp()
    return times, torch.cat([sigmas, torch.zeros(1)])


@torch.no_grad()
def sample(networks: Parts, ids: torch.Tensor, seed: int) -> torch.Tensor:
    """Latents of unit scale, (1, 4, H/8, W/8). Euler ancestral (Karras et al. 2022; Crowson, k-diffusion).

    ids: (2, 2, 77), for each encoder the prompt's row and the empty prompt's.
    """
    generator = torch.Generator().manual_seed(seed)
    times, sigmas = noise_levels(networks.alpha_bar, STEPS)
    context, pooled = encode_text(networks, ids)
    time_ids = torch.tensor([size_ids((SIZE, SIZE), (0, 0), (SIZE, SIZE))]).expand(2, -1)
    extra = {"text_embeds": pooled, "time_ids": time_ids}
    x = torch.randn(1, 4, SIZE // 8, SIZE // 8, generator=generator) * (1 + sigmas[0] ** 2).sqrt()
    for time, sigma, following in zip(times, sigmas, sigmas[1:], strict=False):
        scaled = (x / (1 + sigma**2).sqrt()).expand(2, -1, -1, -1)
        wanted, unwanted = networks.unet(
            scaled, time, encoder_hidden_states=context, added_cond_kwargs=extra
        ).sample.chunk(2)
        noise = unwanted + CFG * (wanted - unwanted)
        up = (following**2 * (sigma**2 - following**2) / sigma**2).clamp(min=0).sqrt().minimum(following)
        down = (following**2 - up**2).clamp(min=0).sqrt()
        x = x + noise * (down - sigma) + up * torch.randn(x.shape, generator=generator)
    return x


@torch.no_grad()
def draw(networks: Parts, vae: parts.Autoencoder, tokens: Tokens, prompt: str, seed: int) -> Image.Image:
    pixels = vae.taesd_decoder(sample(networks, tokens([prompt, ""]), seed))[0]
    return Image.fromarray((pixels.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder with CLIP's vocab.json and merges.txt")
    parser.add_argument("--checkpoint", type=Path, default=HERE / "tiny_sdxl.safetensors")
    parser.add_argument("--out", type=Path, default=HERE / "contact_sheet.png")
    args = parser.parse_args()
    networks, vae = load(args.checkpoint)
    tokens = Tokens(args.tokenizer)
    images = [draw(networks, vae, tokens, prompt, seed) for seed, prompt in enumerate(PROMPTS, start=1)]
    note = f"Tiny SDXL, {SIZE}×{SIZE}, CFG scale {CFG:g}, {STEPS} Euler ancestral steps, seeds 1 to {len(PROMPTS)}."
    contact_sheet(images, PROMPTS, columns=4, thumb=SIZE * 2, note=note).save(args.out)
    print(args.out)


if __name__ == "__main__":
    main()
