"""SDXL for training: networks around weights that somebody else owns, and what they are conditioned on.

Nothing here copies a weight: modules are made on the meta device and the given tensors become their parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from ..errors import ModelError
from .checkpoint import canonical_text_names
from .unet_names import LAYERS_PER_BLOCK, to_original

StateDict = Mapping[str, torch.Tensor]
Encode = Callable[[torch.Tensor], tuple[torch.Tensor, "torch.Tensor | None"]]
"""Pixels (1, H, W, 3) float32 in [0, 1] to the posterior's mean and standard deviation, (1, 4, H/8, W/8) unscaled.

The deviation is None for a VAE without a posterior.
"""
TOKENS = 77
EOS = 49407
TIME_ID_DIM = 256
LATENT_SCALE = 0.13025
# weights of a CLIP text model from whose shapes its configuration follows
_TELLING_SIZES = (
    "text_model.embeddings.token_embedding.weight",
    "text_model.embeddings.position_embedding.weight",
    "text_model.encoder.layers.0.mlp.fc1.weight",
)


@dataclass
class Parts:
    """The networks of one run and the schedule they were trained with.

    unet: diffusers' U-Net. te1, te2: CLIP-L and bigG with projection. alpha_bar: (1000,) float32, the cumulative
    product of 1 - β. prediction: ``epsilon`` or ``v_prediction``. latent_scale: factor from the VAE's latents to
    the U-Net's.
    """

    unet: UNet2DConditionModel
    te1: CLIPTextModel
    te2: CLIPTextModelWithProjection
    alpha_bar: torch.Tensor
    prediction: str = "epsilon"
    latent_scale: float = LATENT_SCALE

    def modules(self) -> tuple[nn.Module, ...]:
        return self.unet, self.te1, self.te2


def scaled_linear_alpha_bar(beta_start: float = 0.00085, beta_end: float = 0.012, steps: int = 1000) -> torch.Tensor:
    """ᾱ of the scaled-linear DDPM schedule of Stable Diffusion, (steps,) float32."""
    betas = torch.linspace(beta_start**0.5, beta_end**0.5, steps, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, dim=0).float()


def zero_terminal(alpha_bar: torch.Tensor) -> torch.Tensor:
    """The same levels rescaled until the last is nearly pure noise (Lin et al., 2024, algorithm 1), as the host does.

    Its ᾱ is left a little above 0, so that no SNR is 0.
    """
    root = alpha_bar.double().sqrt()
    rescaled = ((root - root[-1]) * root[0] / (root[0] - root[-1])).square()
    rescaled[-1] = 4.8973451890853435e-08
    return rescaled.float()


def unet_config(state: StateDict, head_channels: int = 64) -> dict[str, object]:
    """Arguments of diffusers' U-Net for weights in SDXL's original names (without prefix).

    Raises:
        ModelError: the weights are not those of an SDXL text-to-image U-Net.
    """
    needed = ("input_blocks.0.0.weight", "label_emb.0.0.weight", "time_embed.0.weight", "out.2.weight")
    if missing := [name for name in needed if name not in state]:
        raise ModelError(f"The MODEL is not SDXL: its U-Net has no '{missing[0]}'; load an SDXL checkpoint.")
    channels_in = state["input_blocks.0.0.weight"].shape[1]
    if channels_in != 4:
        raise ModelError(f"The MODEL's U-Net takes {channels_in} channels, not 4: inpainting models cannot be trained.")
    per_level = LAYERS_PER_BLOCK + 1
    widths, depths = [], []
    while (name := f"input_blocks.{per_level * len(widths) + 1}.0.out_layers.3.weight") in state:
        block = per_level * len(widths) + 1
        prefix = f"input_blocks.{block}.1.transformer_blocks."
        depths.append(len({key[len(prefix) :].split(".")[0] for key in state if key.startswith(prefix)}))
        widths.append(state[name].shape[0])
    context = next((t.shape[1] for n, t in state.items() if n.endswith("attn2.to_k.weight")), None)
    linear = next((t.ndim == 2 for n, t in state.items() if n.endswith("1.proj_in.weight")), False)
    if context is None or not linear or len(widths) != 3:
        raise ModelError("The MODEL is not SDXL: its U-Net has another shape; load an SDXL checkpoint.")
    attends = [depth > 0 for depth in depths]
    return {
        "sample_size": 128,
        "in_channels": 4,
        "out_channels": state["out.2.weight"].shape[0],
        "down_block_types": tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends),
        "up_block_types": tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
        "block_out_channels": tuple(widths),
        "layers_per_block": LAYERS_PER_BLOCK,
        "transformer_layers_per_block": [max(depth, 1) for depth in depths],
        # diffusers' name for the number of heads in each level
        "attention_head_dim": [max(width // head_channels, 1) for width in widths],
        "cross_attention_dim": context,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": TIME_ID_DIM,
        "projection_class_embeddings_input_dim": state["label_emb.0.0.weight"].shape[1],
    }


def _adopt(module: nn.Module, weights: dict[str, torch.Tensor], what: str) -> None:
    """Make ``weights`` the parameters of a meta-device module, without a copy."""
    for name, own in module.state_dict().items():
        if name in weights and weights[name].shape != own.shape:
            given, wanted = tuple(weights[name].shape), tuple(own.shape)
            raise ModelError(f"The {what} does not fit SDXL: '{name}' has the shape {given}, not {wanted}.")
    missing, unexpected = module.load_state_dict(weights, strict=False, assign=True)
    missing = [name for name in missing if not name.endswith("position_ids")]
    if missing or unexpected:
        odd = (missing or unexpected)[0]
        raise ModelError(f"The {what} does not fit SDXL: '{odd}' is {'missing' if missing else 'unknown'}.")
    module.requires_grad_(False)


def build_unet(state: StateDict, head_channels: int = 64) -> UNet2DConditionModel:
    """diffusers' U-Net whose parameters *are* the given tensors (original names, without prefix).

    Raises:
        ModelError: not an SDXL U-Net, or tensors that are missing or unknown.
    """
    config = unet_config(state, head_channels)
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
    names = to_original(unet.state_dict())
    lost = set(state) - set(names.values())
    if lost or (set(names.values()) - set(state)):
        odd = sorted(lost or set(names.values()) - set(state))[0]
        raise ModelError(f"The MODEL does not fit SDXL: '{odd}' is {'unknown' if lost else 'missing'}.")
    _adopt(unet, {ours: state[theirs] for ours, theirs in names.items()}, "MODEL")
    return unet


def _text_config(state: StateDict, activation: str, heads: int) -> CLIPTextConfig:
    embedding, positions, first = (state[name] for name in _TELLING_SIZES)
    layers = {name.split(".")[3] for name in state if name.startswith("text_model.encoder.layers.")}
    return CLIPTextConfig(
        vocab_size=embedding.shape[0],
        hidden_size=embedding.shape[1],
        intermediate_size=first.shape[0],
        projection_dim=embedding.shape[1],
        num_hidden_layers=len(layers),
        num_attention_heads=heads,
        max_position_embeddings=positions.shape[0],
        hidden_act=activation,
        bos_token_id=49406,
        eos_token_id=EOS,
        pad_token_id=1,
    )


def build_text_encoder(
    state: StateDict, *, projection: bool, heads: int
) -> CLIPTextModel | CLIPTextModelWithProjection:
    """A CLIP text model whose parameters *are* the given tensors (transformers' names with ``text_model.``).

    projection: True for bigG (gelu, projected pooled output), False for CLIP-L (quick_gelu).

    Raises:
        ModelError: tensors are missing or unknown.
    """
    if missing := [name for name in _TELLING_SIZES if name not in state]:
        raise ModelError(f"The CLIP has no '{missing[0]}'; connect the CLIP of an SDXL checkpoint.")
    config = _text_config(state, "gelu" if projection else "quick_gelu", heads)
    with torch.device("meta"):
        model = (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)
    names = canonical_text_names(name for name, _ in model.named_parameters())
    if missing := [name for name in names.values() if name not in state]:
        raise ModelError(f"The CLIP does not fit SDXL: '{missing[0]}' is missing.")
    _adopt(model, {ours: state[theirs] for ours, theirs in names.items()}, "CLIP")
    device = state[_TELLING_SIZES[0]].device
    for module in model.modules():
        if "position_ids" in module._buffers:
            module.position_ids = torch.arange(config.max_position_embeddings, device=device)[None]
    return model


def encode_text(parts: Parts, ids: torch.Tensor, *, joined: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """SDXL's text conditioning: (N, 77k, 2048) context and (N, 1280) pooled output.

    ids: (2, N, 77k) int64, k pieces of 77; row 0 for CLIP-L (padded with its end token), row 1 for bigG (with 0).
    Both encoders give the hidden state before their last layer, without the final norm; the pooled output is bigG's
    last one at the first end token of the first piece, projected. No attention mask (kohya-ss/sd-scripts, and ComfyUI).

    joined: leave out the inner starts and ends, (N, 75k + 2, 2048), as sd-scripts does for max_token_length 150 and
    225 (get_hidden_states_sdxl); otherwise whole pieces follow each other, as in ComfyUI.
    """
    count, pieces = ids.shape[1], ids.shape[2] // TOKENS
    return join_pieces(*encode_pieces(parts, ids.reshape(2, count * pieces, TOKENS)), pieces, joined=joined)


def encode_pieces(parts: Parts, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Each piece by itself: (2, M, 77) ids to (M, 77, 2048) context and (M, 1280) pooled output."""
    first = parts.te1(rows[0], output_hidden_states=True)
    second = parts.te2(rows[1], output_hidden_states=True)
    return torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1), second.text_embeds


def join_pieces(
    context: torch.Tensor, pooled: torch.Tensor, pieces: int, *, joined: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """The conditioning of captions of ``pieces`` pieces each, from their pieces' (N·k, 77, 2048) and (N·k, 1280)."""
    if pieces == 1:
        return context, pooled
    context = context.unflatten(0, (-1, pieces))
    pooled = pooled.unflatten(0, (-1, pieces))[:, 0]
    if not joined:
        return context.flatten(1, 2), pooled
    inner = context[:, :, 1:-1].flatten(1, 2)
    return torch.cat([context[:, 0, :1], inner, context[:, -1, -1:]], dim=1), pooled


def pad_tokens(ids: Sequence[int], pieces: int = 1) -> tuple[list[int], list[int], int]:
    """CLIP's ids with start and end to SDXL's two rows of 77 a piece, and how many tokens were cut.

    The first 75 tokens of each piece between start and end are kept; a piece without tokens is start and end alone.
    """
    start, inner, end = ids[0], list(ids[1:-1]), ids[-1]
    size = TOKENS - 2
    first: list[int] = []
    second: list[int] = []
    for number in range(pieces):
        row = [start, *inner[number * size : (number + 1) * size], end]
        fill = TOKENS - len(row)
        first += row + [EOS] * fill
        second += row + [0] * fill
    return first, second, max(0, len(inner) - pieces * size)


def size_ids(original: tuple[int, int], crop: tuple[int, int], target: tuple[int, int]) -> list[float]:
    """SDXL's size conditioning in its order: original (height, width), crop (top, left), target (height, width).

    Arguments are (width, height), (left, top), (width, height) in pixels.
    """
    return [float(v) for pair in (original, crop, target) for v in (pair[1], pair[0])]
