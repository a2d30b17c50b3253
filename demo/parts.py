"""The parts of the tiny SDXL as diffusers, transformers and TAESD know them."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

sys.path.insert(0, str(Path(__file__).parent / "tiny_sdxl"))
import sizes


def unet() -> UNet2DConditionModel:
    channels = [sizes.MODEL_CHANNELS * mult for mult in sizes.CHANNEL_MULT]
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=tuple(channels),
        layers_per_block=2,
        transformer_layers_per_block=[max(depth, 1) for depth in sizes.TRANSFORMER_DEPTH],
        attention_head_dim=[width // sizes.HEAD_CHANNELS for width in channels],
        cross_attention_dim=sizes.CONTEXT_DIM,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=sizes.ADM_IN_CHANNELS,
    )


def _text_config(activation: str) -> CLIPTextConfig:
    return CLIPTextConfig(
        **sizes.TEXT_CONFIG,
        hidden_act=activation,
        bos_token_id=49406,
        eos_token_id=49407,
        pad_token_id=1,
        vocab_size=49408,
    )


def text_encoders() -> tuple[CLIPTextModel, CLIPTextModelWithProjection]:
    return CLIPTextModel(_text_config("quick_gelu")), CLIPTextModelWithProjection(_text_config("gelu"))


class Block(nn.Module):
    """TAESD's residual block (Bohan, madebyollin/taesd)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        conv = [nn.Conv2d(width, width, 3, padding=1) for _ in range(3)]
        self.conv = nn.Sequential(conv[0], nn.ReLU(), conv[1], nn.ReLU(), conv[2])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.conv(x) + x)


class Clamp(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x / 3) * 3


def _down(width: int) -> list[nn.Module]:
    return [nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False), *(Block(width) for _ in range(3))]


def _up(width: int, blocks: int) -> list[nn.Module]:
    stage: list[nn.Module] = [Block(width) for _ in range(blocks)]
    return [*stage, nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1, bias=False)]


class Autoencoder(nn.Module):
    """TAESD for 4-channel latents: pixels in [0, 1], (N, 3, H, W), to latents of unit scale, (N, 4, H/8, W/8)."""

    def __init__(self, width: int = 64, latent_channels: int = 4) -> None:
        super().__init__()
        self.taesd_encoder = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), Block(width), *_down(width), *_down(width), *_down(width),
            nn.Conv2d(width, latent_channels, 3, padding=1),
        )  # fmt: skip
        self.taesd_decoder = nn.Sequential(
            Clamp(), nn.Conv2d(latent_channels, width, 3, padding=1), nn.ReLU(),
            *_up(width, 3), *_up(width, 3), *_up(width, 3), Block(width), nn.Conv2d(width, 3, 3, padding=1),
        )  # fmt: skip
