"""Where host and trainer meet: the host's weights lent to the trainer, its text tokens, its VAE, its memory.

Nothing of the host is changed. Weights are aliases of the host's own storage wherever device and dtype allow it.
"""

from __future__ import annotations

import ctypes
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import comfy.lora
import comfy.model_base
import comfy.model_management
import comfy.model_sampling
import comfy.sdxl_clip
import torch
from comfy.ldm.models.autoencoder import DiagonalGaussianRegularizer, EmptyRegularizer

from ..trainer.device import give_back as return_memory
from ..trainer.errors import NO_CLIP, ModelError
from ..trainer.sdxl.parts import LATENT_SCALE, Parts, build_text_encoder, build_unet
from ..trainer.sdxl.precision import DTYPES, widened
from ..trainer.settings.training import TrainSettings

log = logging.getLogger("mjesec")
State = dict[str, torch.Tensor]


def alias(tensor: torch.Tensor) -> torch.Tensor:
    """The same storage as a tensor that autograd accepts.

    The host makes its weights in inference mode; such tensors cannot be saved for backward, but a tensor made
    outside of it on the same storage can.
    """
    with torch.inference_mode(False):
        return torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(
            tensor.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride()
        )


def base_weights(patcher: Any, prefix: str) -> State:
    """Weights under ``prefix`` (which is cut off) as the graph made them: patches on the wire are merged in.

    Unpatched weights are aliases of the host's; patched ones are computed into new tensors.
    """
    out: State = {}
    for key, patches in patcher.get_key_patches(prefix).items():
        weight, convert = patches[0]
        if len(patches) == 1:
            out[key[len(prefix) :]] = alias(weight)
            continue
        with torch.inference_mode(False), torch.no_grad():
            merged = convert(weight.float().clone(), inplace=True)
            merged = comfy.lora.calculate_weight(patches[1:], merged, key)
            out[key[len(prefix) :]] = merged.to(weight.dtype)
    return out


def check_model(model: Any) -> None:
    """Refuse what is not SDXL.

    Raises:
        ModelError: names what the MODEL is.
    """
    inner = model.model
    if not isinstance(inner, comfy.model_base.SDXL):
        raise ModelError(
            f"The MODEL is {type(inner).__name__}, not SDXL; load an SDXL checkpoint such as sd_xl_base_1.0."
        )
    kinds = (comfy.model_base.ModelType.EPS, comfy.model_base.ModelType.V_PREDICTION)
    if inner.model_type not in kinds:
        raise ModelError(f"The MODEL is trained as {inner.model_type.name}; only EPS and V_PREDICTION can be trained.")
    prediction_of(model)


def prediction_of(model: Any) -> str:
    """What the MODEL's network predicts, ``epsilon`` or ``v_prediction``, as its sampling reads it.

    Raises:
        ModelError: it predicts something else, or at other noise levels than SDXL's thousand.
    """
    sampling = model.get_model_object("model_sampling")
    levels = getattr(sampling, "sigmas", None)
    if isinstance(sampling, comfy.model_sampling.ModelSamplingDiscrete) and levels is not None and len(levels) == 1000:
        # subclasses by the dozen: what counts is what becomes of an output of 1 at an input of 2
        sigma, given = torch.tensor([3.0]), torch.ones(1, 1, 1, 1)
        found = sampling.calculate_denoised(sigma, given, 2 * given).item()
        wanted = {"epsilon": 2 - 3, "v_prediction": 2 / (9 + 1) - 3 / (9 + 1) ** 0.5}
        for name, value in wanted.items():
            if abs(found - value) < 1e-4:
                return name
    raise ModelError(
        f"The MODEL's sampling ({', '.join(kind.__name__ for kind in type(sampling).__bases__)}) is not that of SDXL's "
        "noise or v-prediction; connect the MODEL from before the node that changed it."
    )


def noise_levels(model: Any) -> torch.Tensor:
    """ᾱ of the MODEL's noise levels, (1000,) float32."""
    sigmas = widened(model.get_model_object("model_sampling").sigmas)
    with torch.inference_mode(False):
        # σ² = (1 - ᾱ)/ᾱ in the host's terms
        return (1 / (1 + sigmas.square())).float().clone()


def check_clip(clip: Any, model: Any) -> None:
    """Refuse a CLIP that is not SDXL's pair, or not of the MODEL's width.

    Raises:
        ModelError: names what the CLIP is.
    """
    if clip is None:
        raise ModelError(NO_CLIP)
    pair = clip.cond_stage_model
    if not isinstance(pair, comfy.sdxl_clip.SDXLClipModel):
        raise ModelError(
            f"The CLIP is {type(pair).__name__}, not SDXL's pair; connect the CLIP of the same checkpoint."
        )
    width = sum(part.transformer.get_input_embeddings().weight.shape[1] for part in (pair.clip_l, pair.clip_g))
    wanted = model.model.model_config.unet_config["context_dim"]
    if width != wanted:
        raise ModelError(
            f"The CLIP gives {width} values a token, the MODEL takes {wanted}; connect the CLIP of its checkpoint."
        )


def check_vae(vae: Any) -> None:
    """Refuse a VAE whose latents are not SDXL's.

    Raises:
        ModelError: names what is different.
    """
    if getattr(vae, "first_stage_model", None) is None:
        raise ModelError("The VAE holds no model: the checkpoint has none; connect a VAE from Load VAE.")
    asked = {
        "latents of {} channels, SDXL's have {}": (vae.latent_channels, 4),
        "latents of {} dimensions, SDXL's have {}": (vae.latent_dim, 2),
        "one latent of {} pixels a side, SDXL's one of {}": (vae.downscale_ratio, 8),
    }
    for sentence, (found, right) in asked.items():
        if found != right:
            raise ModelError(f"The VAE makes {sentence.format(found, right)}; connect the VAE of the same checkpoint.")


def model_file(model: Any) -> Path | None:
    """The file that the MODEL was loaded from, where the host knows it."""
    init = getattr(model, "cached_patcher_init", None)
    path = init[1][0] if init and init[1] else ""
    return Path(path) if isinstance(path, str) and os.path.isfile(path) else None


def unet_weights(model: Any) -> State:
    return base_weights(model, "diffusion_model.")


def text_weights(clip: Any) -> tuple[State, State]:
    """CLIP-L and bigG under transformers' names."""
    first, second = (base_weights(clip.patcher, f"{name}.transformer.") for name in ("clip_l", "clip_g"))
    # the host gives CLIP-L a projection that SDXL does not use
    first.pop("text_projection.weight", None)
    return first, second


def vae_weights(vae: Any) -> State:
    return {name: alias(tensor) for name, tensor in vae.first_stage_model.state_dict().items()}


def _fit(state: State, device: torch.device, precision: str) -> State:
    """Bring weights to the device and to a dtype in which autocast computes; a no-op where they are already right."""
    compute = DTYPES[precision]

    def fit(tensor: torch.Tensor) -> torch.Tensor:
        keep = tensor.dtype == compute or (precision != "fp32" and tensor.dtype == torch.float32)
        return tensor.to(device=device, dtype=tensor.dtype if keep else compute)

    with torch.inference_mode(False):
        return {name: fit(tensor) for name, tensor in state.items()}


def _heads(transformer: Any) -> int:
    return transformer.text_model.encoder.layers[0].self_attn.heads


def build_parts(model: Any, clip: Any, settings: TrainSettings, device: torch.device) -> Parts:
    """The trainer's networks around the host's weights.

    Raises:
        ModelError: the weights are not SDXL's.
    """
    pair = clip.cond_stage_model
    first, second = text_weights(clip)
    unet = unet_weights(model)
    # what is packed goes to a GPU layer by layer: it need not have room for the whole first
    if settings.base_storage == "as given" or device.type == "cpu":
        unet = _fit(unet, device, settings.precision)
    with torch.inference_mode(False):
        return Parts(
            unet=build_unet(
                unet,
                model.model.model_config.unet_config.get("num_head_channels", 64),
            ),
            te1=build_text_encoder(
                _fit(first, device, settings.precision), projection=False, heads=_heads(pair.clip_l.transformer)
            ),
            te2=build_text_encoder(
                _fit(second, device, settings.precision), projection=True, heads=_heads(pair.clip_g.transformer)
            ),
            alpha_bar=noise_levels(model),
            prediction=prediction_of(model),
            latent_scale=getattr(model.model.latent_format, "scale_factor", LATENT_SCALE),
        )


def tokenizer(clip: Any) -> Callable[[str], Sequence[int]]:
    """Captions to CLIP's ids, read literally: no weights in brackets, no embeddings by name."""
    inner = clip.tokenizer.clip_l.tokenizer

    def tokenize(text: str) -> Sequence[int]:
        return inner(text)["input_ids"]

    return tokenize


@contextmanager
def _posterior(vae: Any) -> Iterator[bool]:
    """Let ``vae.encode`` give mean and log-variance instead of the posterior's mode; False where there is none."""
    engine = vae.first_stage_model
    held = getattr(engine, "regularization", None)
    if not isinstance(held, DiagonalGaussianRegularizer):
        yield False
        return
    engine.regularization, channels = EmptyRegularizer(), vae.latent_channels
    # the host makes room for so many where it finds too little memory and encodes in tiles
    vae.latent_channels = 2 * channels
    try:
        yield True
    finally:
        engine.regularization, vae.latent_channels = held, channels


def encoder(vae: Any) -> Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor | None]]:
    """Pixels to the posterior's mean and deviation through the host's VAE, wherever the host runs it."""

    def encode(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        comfy.model_management.throw_exception_if_processing_interrupted()
        with torch.inference_mode(), _posterior(vae) as has_posterior:
            latents = vae.encode(pixels)
        if not has_posterior:
            return latents, None
        mean, log_variance = latents.chunk(2, dim=1)
        # the clamp of the original DiagonalGaussianDistribution
        return mean, torch.exp(0.5 * log_variance.clamp(-30.0, 20.0))

    return encode


def training_device() -> torch.device:
    return comfy.model_management.get_torch_device()


def free_bytes(device: torch.device) -> int:
    """Memory that is free on the device, the allocator's own reserve included."""
    return int(comfy.model_management.get_free_memory(device))


def make_room(device: torch.device) -> None:
    """Evict the host's copies from the device before the trainer puts its own there."""
    if device.type != "cpu":
        comfy.model_management.unload_all_models()
        comfy.model_management.soft_empty_cache()


def forget_frames(error: BaseException) -> None:
    """Let go of what the frames of a failed or cancelled run hold: the networks and the optimizer."""
    seen: BaseException | None = error
    while seen is not None:
        traceback.clear_frames(seen.__traceback__)
        seen = seen.__cause__ or seen.__context__


def give_back() -> None:
    """Return what the trainer used: to the device, and on Linux from the C heap to the system."""
    return_memory(training_device())
    comfy.model_management.soft_empty_cache()
    if sys.platform == "linux":
        try:
            ctypes.CDLL(None).malloc_trim(0)
        except AttributeError:  # not glibc
            log.debug("[Mjesec] no malloc_trim here")


def lora_file_name(path: Path, folder: Path) -> str:
    """A file as the host's LoRA loaders name it."""
    return path.relative_to(folder).as_posix()
