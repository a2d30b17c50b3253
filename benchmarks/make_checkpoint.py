"""Writes a full-size SDXL checkpoint with random weights, in the layout of sd_xl_base_1.0.safetensors.

    python benchmarks/make_checkpoint.py PATH [--seed N]

6.94 GB of fp16 in about a minute, with little memory: every tensor is drawn, written and forgotten. The scales keep
activations finite; what it draws means nothing. It stands in for the real file wherever only size and layout count.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import _pack  # noqa: F401 - makes `pack` and `dev` importable
import torch
from diffusers import UNet2DConditionModel
from pack.trainer.sdxl.checkpoint import TE1_PREFIX, TE2_PREFIX, join
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

Shape = tuple[int, ...]
# they close a residual branch; small, so that 70 blocks on top of each other do not grow without bound
_BRANCH_ENDS = ("to_out.0", "ff.net.2", "proj_out", "out_layers.3", "conv2", "out_proj", "mlp.fc2", "mlp.c_proj")
_DTYPES = {torch.float16: "F16", torch.int64: "I64"}


def sdxl_unet() -> UNet2DConditionModel:
    """SDXL base's U-Net without storage: 2.57 billion parameters, 1680 tensors."""
    with torch.device("meta"):
        return UNet2DConditionModel(
            sample_size=128,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(320, 640, 1280),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            cross_attention_dim=2048,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        )


def sdxl_text_encoders() -> tuple[CLIPTextModel, CLIPTextModelWithProjection]:
    """CLIP-L and OpenCLIP bigG without storage."""

    def config(width: int, layers: int, heads: int) -> CLIPTextConfig:
        return CLIPTextConfig(
            vocab_size=49408,
            hidden_size=width,
            intermediate_size=4 * width,
            projection_dim=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
        )

    with torch.device("meta"):
        return CLIPTextModel(config(768, 12, 12)), CLIPTextModelWithProjection(config(1280, 32, 20))


def _conv(name: str, inputs: int, outputs: int, side: int = 3) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (outputs, inputs, side, side)
    yield f"{name}.bias", (outputs,)


def _norm(name: str, width: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def _residual(name: str, inputs: int, outputs: int) -> Iterator[tuple[str, Shape]]:
    yield from _norm(f"{name}.norm1", inputs)
    yield from _conv(f"{name}.conv1", inputs, outputs)
    yield from _norm(f"{name}.norm2", outputs)
    yield from _conv(f"{name}.conv2", outputs, outputs)
    if inputs != outputs:
        yield from _conv(f"{name}.nin_shortcut", inputs, outputs, 1)


def _middle(name: str, width: int) -> Iterator[tuple[str, Shape]]:
    yield from _residual(f"{name}.block_1", width, width)
    yield from _norm(f"{name}.attn_1.norm", width)
    for part in ("q", "k", "v", "proj_out"):
        yield from _conv(f"{name}.attn_1.{part}", width, width, 1)
    yield from _residual(f"{name}.block_2", width, width)


def vae_shapes(widths: tuple[int, ...] = (128, 256, 512, 512), latent: int = 4) -> Iterator[tuple[str, Shape]]:
    """Names and shapes of SDXL's autoencoder as the original file has them behind its prefix.

    CompVis/latent-diffusion, ldm/modules/diffusionmodules/model.py, with two residual blocks a level.
    """
    last, top = widths[-1], len(widths) - 1
    yield from _conv("encoder.conv_in", 3, widths[0])
    for level, width in enumerate(widths):
        for block in range(2):
            before = widths[max(level - 1, 0)] if block == 0 else width
            yield from _residual(f"encoder.down.{level}.block.{block}", before, width)
        if level < top:
            yield from _conv(f"encoder.down.{level}.downsample.conv", width, width)
    yield from _middle("encoder.mid", last)
    yield from _norm("encoder.norm_out", last)
    yield from _conv("encoder.conv_out", last, 2 * latent)
    yield from _conv("decoder.conv_in", latent, last)
    yield from _middle("decoder.mid", last)
    for level in reversed(range(len(widths))):
        for block in range(3):
            before = widths[min(level + 1, top)] if block == 0 else widths[level]
            yield from _residual(f"decoder.up.{level}.block.{block}", before, widths[level])
        if level:
            yield from _conv(f"decoder.up.{level}.upsample.conv", widths[level], widths[level])
    yield from _norm("decoder.norm_out", widths[0])
    yield from _conv("decoder.conv_out", widths[0], 3)
    yield from _conv("quant_conv", 2 * latent, 2 * latent, 1)
    yield from _conv("post_quant_conv", latent, latent, 1)


@dataclass(frozen=True)
class Entry:
    """One tensor of the file."""

    name: str
    shape: Shape
    dtype: torch.dtype = torch.float16

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def draw(self, generator: torch.Generator) -> torch.Tensor:
        """Random weights of a scale that suits the tensor's place."""
        if self.dtype == torch.int64:
            return torch.arange(self.shape[-1]).expand(self.shape).contiguous()
        if self.name.endswith("logit_scale"):
            return torch.full(self.shape, math.log(100.0), dtype=self.dtype)
        if len(self.shape) == 1:
            # only norms have weights of one dimension
            return torch.full(self.shape, float(self.name.endswith("weight")), dtype=self.dtype)
        values = torch.empty(self.shape).normal_(generator=generator)
        return values.mul_(self._deviation()).to(self.dtype)

    def _deviation(self) -> float:
        if "embedding" in self.name:
            return 0.02
        stem = self.name.removesuffix(".weight")
        scale = 0.2 if stem.endswith(_BRANCH_ENDS) else 1.0
        return scale / math.sqrt(math.prod(self.shape[1:]))


def entries() -> list[Entry]:
    """Every tensor of the file, in its order."""
    te1, te2 = sdxl_text_encoders()
    vae = {name: torch.empty(shape, device="meta") for name, shape in vae_shapes()}
    state = join(sdxl_unet().state_dict(), dict(te1.named_parameters()), dict(te2.named_parameters()), vae)
    out = [Entry(name, tuple(tensor.shape)) for name, tensor in state.items()]
    # the real file has these two as well; nothing reads them
    out.append(Entry(f"{TE1_PREFIX}text_model.embeddings.position_ids", (1, 77), torch.int64))
    out.append(Entry(f"{TE2_PREFIX}logit_scale", ()))
    # as the safetensors library does: wider types first, so that every tensor is aligned
    return sorted(out, key=lambda entry: (-entry.dtype.itemsize, entry.name))


def header_of(tensors: list[Entry]) -> bytes:
    """The file's first bytes: the header's length and the header, padded to a multiple of 8."""
    described: dict[str, object] = {}
    start = 0
    for entry in tensors:
        offsets = [start, start + entry.nbytes]
        described[entry.name] = {"dtype": _DTYPES[entry.dtype], "shape": list(entry.shape), "data_offsets": offsets}
        start += entry.nbytes
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def make_checkpoint(path: Path, seed: int = 0) -> int:
    """Write the checkpoint; the name appears only when the file is whole. Returns its size in bytes.

    Raises:
        OSError: there is not enough room.
    """
    tensors = entries()
    header = header_of(tensors)
    size = len(header) + sum(entry.nbytes for entry in tensors)
    path.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(path.parent).free
    if free < size + 2**30:
        raise OSError(
            f"'{path.parent}' has {free / 1e9:.1f} GB free; the checkpoint needs {size / 1e9:.1f} and 1 spare."
        )
    scratch = path.with_name(f".{path.name}.part")
    generator = torch.Generator().manual_seed(seed)
    try:
        with scratch.open("wb") as file:
            file.write(header)
            for entry in tensors:
                entry.draw(generator).numpy().tofile(file)
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
    return size


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("path", type=Path, help="the file to write")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    began = time.monotonic()
    try:
        size = make_checkpoint(options.path, options.seed)
    except OSError as error:
        print(f"The checkpoint cannot be written: {error}", file=sys.stderr)
        return 1
    print(f"{options.path}: {size / 1e9:.2f} GB in {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
