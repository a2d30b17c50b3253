"""SDXL from its single-file checkpoint, without a host: networks, VAE encoder and tokenizer from local files alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from safetensors import safe_open
from transformers import CLIPTokenizer

from ..errors import ModelError
from ..shortage import is_out_of_memory
from .checkpoint import TE1_PREFIX, TE2_PREFIX, UNET_PREFIX, VAE_PREFIX, transformers_state
from .parts import Encode, Parts, build_text_encoder, build_unet, scaled_linear_alpha_bar, zero_terminal
from .precision import DTYPES
from .vae_names import vae_config, vae_encoder_state

State = dict[str, torch.Tensor]
HEAD_CHANNELS = 64
_TILE = 512
_TOKENIZER_FILES = ("vocab.json", "merges.txt")


@dataclass(frozen=True)
class SingleFile:
    """A checkpoint in the layout of ``sd_xl_base_1.0.safetensors``. ``vae``: another file with a VAE, or None."""

    path: Path
    vae: Path | None = None

    def unet(self) -> State:
        """Original names without prefix; memory-mapped."""
        return self._part(UNET_PREFIX, "U-Net")

    def text(self) -> tuple[State, State]:
        """CLIP-L and bigG under transformers' names with ``text_model.``."""
        first = self._part(TE1_PREFIX, "CLIP-L")
        first = {name: tensor for name, tensor in first.items() if not name.endswith("position_ids")}
        return first, transformers_state(self._part(TE2_PREFIX, "bigG text encoder"))

    def vae_encoder(self) -> State:
        """The VAE's encoder under diffusers' names.

        Raises:
            ModelError: there is none, or it is of another kind.
        """
        if self.vae is None:
            return vae_encoder_state(self._part(VAE_PREFIX, "VAE"))
        state = read_part(self.vae, "", "SDXL's VAE")
        prefixed = {n[len(VAE_PREFIX) :]: t for n, t in state.items() if n.startswith(VAE_PREFIX)}
        return vae_encoder_state(prefixed or state)

    def prediction(self, *, v_prediction: bool = False) -> str:
        """``epsilon`` or ``v_prediction``, by the checkpoint's own mark or by what the user says of it.

        Raises:
            ModelError: the checkpoint says that it predicts something else.
        """
        names = read_names(self.path)
        if wrong := sorted(names & {"edm_mean", "edm_vpred.sigma_max"}):
            raise ModelError(
                f"'{self.path.name}' is an EDM model ('{wrong[0]}'), which cannot be trained; choose another one."
            )
        return "v_prediction" if v_prediction or "v_pred" in names else "epsilon"

    def alpha_bar(self, *, zero_terminal_snr: bool = False) -> torch.Tensor:
        """The noise levels, (1000,) float32: with zero terminal SNR by the checkpoint's own mark, or if asked for."""
        usual = scaled_linear_alpha_bar()
        return zero_terminal(usual) if zero_terminal_snr or "ztsnr" in read_names(self.path) else usual

    def _part(self, prefix: str, what: str) -> State:
        state = read_part(self.path, prefix)
        if not state:
            raise ModelError(
                f"'{self.path.name}' holds no {what} under '{prefix}'; give SDXL's single-file checkpoint, such as "
                "sd_xl_base_1.0.safetensors."
            )
        return state


def read_part(path: Path, prefix: str, wanted: str = "SDXL's checkpoint") -> State:
    """The tensors of a safetensors file whose names begin with ``prefix``, which is cut off.

    Raises:
        ModelError: no safetensors file; ``wanted`` is to be named instead.
    """
    with _opened(path, wanted) as file:
        return {n[len(prefix) :]: file.get_tensor(n) for n in file.keys() if n.startswith(prefix)}  # noqa: SIM118


def read_names(path: Path) -> set[str]:
    """The names of a checkpoint's tensors. Raises ModelError."""
    with _opened(path, "SDXL's checkpoint") as file:
        return set(file.keys())


@contextmanager
def _opened(path: Path, wanted: str) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except Exception as error:
        raise ModelError(f"'{path}' is not a readable safetensors file; name {wanted}.") from error


def build_parts(
    unet: State,
    te1: State,
    te2: State,
    precision: str,
    device: torch.device,
    *,
    prediction: str = "epsilon",
    alpha_bar: torch.Tensor | None = None,
    head_channels: int = HEAD_CHANNELS,
    packed: bool = False,
) -> Parts:
    """The networks of a run on the device, in the dtype of ``precision``.

    packed: the U-Net stays as it is, for ``add_adapters`` to pack on its way to the device.
    """

    def fit(state: Mapping[str, torch.Tensor]) -> State:
        return {name: tensor.to(device, DTYPES[precision]) for name, tensor in state.items()}

    def heads(state: Mapping[str, torch.Tensor]) -> int:
        return max(state["text_model.embeddings.token_embedding.weight"].shape[1] // head_channels, 1)

    return Parts(
        unet=build_unet(unet if packed else fit(unet), head_channels),
        te1=build_text_encoder(fit(te1), projection=False, heads=heads(te1)),
        te2=build_text_encoder(fit(te2), projection=True, heads=heads(te2)),
        alpha_bar=scaled_linear_alpha_bar() if alpha_bar is None else alpha_bar,
        prediction=prediction,
    )


def make_encoder(state: State, device: torch.device, groups: int | None = None) -> Encode:
    """Pixels to mean and deviation through the VAE's encoder in fp32, as kohya does with no_half_vae.

    groups: of the norms; None takes SDXL's 32, or as many as there are channels.
    """
    config = vae_config(state)
    if groups is not None:
        config["norm_num_groups"] = groups
    with torch.device("meta"):
        vae = AutoencoderKL(**config)
    # nothing is ever decoded
    vae.decoder = vae.post_quant_conv = None
    vae.load_state_dict({name: tensor.to(device, torch.float32) for name, tensor in state.items()}, assign=True)
    vae.requires_grad_(False).eval()

    # of a side that the smallest GPUs encode whole
    vae.tile_sample_min_size, vae.tile_latent_min_size = _TILE, _TILE // 8

    @torch.no_grad()
    def encode(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        inputs = pixels.to(device).movedim(-1, 1) * 2 - 1
        try:
            posterior = vae.encode(inputs).latent_dist
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            posterior = None
        if posterior is None:
            # outside of the handler, whose traceback holds what the failed attempt had computed
            vae.enable_tiling()
            try:
                posterior = vae.encode(inputs).latent_dist
            finally:
                vae.disable_tiling()
        return posterior.mean, posterior.std

    return encode


def find_tokenizer(named: str, environment: Mapping[str, str] = os.environ) -> Path:
    """The folder with CLIP's vocabulary: the one named, $MJESEC_TOKENIZER, or that of a ComfyUI nearby.

    Raises:
        ModelError: none of them holds the files.
    """
    comfyui = [environment.get("COMFYUI_PATH", ""), str(Path(__file__).resolve().parents[4])]
    places = [named] if named else [environment.get("MJESEC_TOKENIZER", "")]
    places += [] if named else [os.path.join(root, "comfy", "sd1_tokenizer") for root in comfyui if root]
    for place in filter(None, places):
        if all((Path(place) / name).is_file() for name in _TOKENIZER_FILES):
            return Path(place)
    raise ModelError(
        f"CLIP's vocabulary ({' and '.join(_TOKENIZER_FILES)}) is not in {' or '.join(filter(None, places))}; name its "
        "folder with --tokenizer: ComfyUI has it as comfy/sd1_tokenizer, and SDXL's repository as tokenizer."
    )


def load_tokenizer(folder: Path) -> Callable[[str], Sequence[int]]:
    """A caption to CLIP's ids with start and end, uncut; read literally."""
    inner = CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)

    def tokenize(text: str) -> Sequence[int]:
        # without the length, transformers would warn of every long caption
        return inner(text, truncation=False, verbose=False)["input_ids"]

    return tokenize
