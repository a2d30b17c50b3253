"""The two layouts of SDXL's U-Net, at full size, where only names and shapes exist."""

from __future__ import annotations

import hashlib

import pytest
import tiny_parts
import torch
from pack.trainer.sdxl.unet_names import to_original

# SHA-256 over "name shape" of every weight, sorted, made from ComfyUI 0.30.0's own U-Net with SDXL's configuration
ORIGINAL_NAMES_AND_SHAPES = "d8427731b1d2b4b612e3c50353d91f7c1eef2d8fb29d7539903578a9604a530a"

# one of each kind of weight and of each place, read from Stability's checkpoint layout
PAIRS = {
    "conv_in.weight": "input_blocks.0.0.weight",
    "time_embedding.linear_1.weight": "time_embed.0.weight",
    "time_embedding.linear_2.bias": "time_embed.2.bias",
    "add_embedding.linear_1.weight": "label_emb.0.0.weight",
    "add_embedding.linear_2.weight": "label_emb.0.2.weight",
    "down_blocks.0.resnets.0.norm1.weight": "input_blocks.1.0.in_layers.0.weight",
    "down_blocks.0.resnets.1.conv1.weight": "input_blocks.2.0.in_layers.2.weight",
    "down_blocks.0.resnets.1.time_emb_proj.bias": "input_blocks.2.0.emb_layers.1.bias",
    "down_blocks.0.downsamplers.0.conv.weight": "input_blocks.3.0.op.weight",
    "down_blocks.1.resnets.0.norm2.bias": "input_blocks.4.0.out_layers.0.bias",
    "down_blocks.1.resnets.0.conv2.weight": "input_blocks.4.0.out_layers.3.weight",
    "down_blocks.1.resnets.0.conv_shortcut.weight": "input_blocks.4.0.skip_connection.weight",
    "down_blocks.1.attentions.0.proj_in.weight": "input_blocks.4.1.proj_in.weight",
    "down_blocks.1.attentions.1.norm.weight": "input_blocks.5.1.norm.weight",
    "down_blocks.1.downsamplers.0.conv.bias": "input_blocks.6.0.op.bias",
    "down_blocks.2.attentions.1.transformer_blocks.9.attn2.to_out.0.bias": (
        "input_blocks.8.1.transformer_blocks.9.attn2.to_out.0.bias"
    ),
    "mid_block.resnets.0.conv1.weight": "middle_block.0.in_layers.2.weight",
    "mid_block.attentions.0.proj_out.weight": "middle_block.1.proj_out.weight",
    "mid_block.resnets.1.norm2.weight": "middle_block.2.out_layers.0.weight",
    "up_blocks.0.resnets.0.conv_shortcut.bias": "output_blocks.0.0.skip_connection.bias",
    "up_blocks.0.attentions.2.transformer_blocks.0.ff.net.0.proj.weight": (
        "output_blocks.2.1.transformer_blocks.0.ff.net.0.proj.weight"
    ),
    "up_blocks.0.upsamplers.0.conv.weight": "output_blocks.2.2.conv.weight",
    "up_blocks.1.attentions.0.transformer_blocks.1.norm3.bias": "output_blocks.3.1.transformer_blocks.1.norm3.bias",
    "up_blocks.1.upsamplers.0.conv.bias": "output_blocks.5.2.conv.bias",
    "up_blocks.2.resnets.2.conv1.bias": "output_blocks.8.0.in_layers.2.bias",
    "conv_norm_out.weight": "out.0.weight",
    "conv_out.bias": "out.2.bias",
}


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    """SDXL's U-Net on the meta device, by diffusers' names."""
    with tiny_parts.on_meta():
        return tiny_parts.full_size_unet().state_dict()


@pytest.fixture(scope="module")
def names(weights: dict[str, torch.Tensor]) -> dict[str, str]:
    return to_original(weights)


def test_all_1680_weights_map_one_to_one(names: dict[str, str]) -> None:
    assert len(names) == len(set(names.values())) == 1680


def test_the_names_and_their_shapes_are_those_of_the_original_network(
    weights: dict[str, torch.Tensor], names: dict[str, str]
) -> None:
    lines = sorted(f"{names[name]} {tuple(tensor.shape)}" for name, tensor in weights.items())
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == ORIGINAL_NAMES_AND_SHAPES


@pytest.mark.parametrize(("ours", "theirs"), PAIRS.items(), ids=PAIRS)
def test_each_kind_of_weight_has_its_place(names: dict[str, str], ours: str, theirs: str) -> None:
    assert names[ours] == theirs


def test_module_names_map_as_weight_names_do(names: dict[str, str]) -> None:
    modules = {name.rsplit(".", 1)[0] for name in names}
    mapped = to_original(modules)
    assert all(names[name].rsplit(".", 1)[0] == mapped[name.rsplit(".", 1)[0]] for name in names)


def test_without_attention_the_upsampler_takes_the_attentions_slot() -> None:
    assert to_original(["up_blocks.0.upsamplers.0.conv.weight"]) == {
        "up_blocks.0.upsamplers.0.conv.weight": "output_blocks.2.1.conv.weight"
    }


@pytest.mark.parametrize("name", ["encoder.layers.0.weight", "conv_inside.weight", ""])
def test_a_name_of_something_else_is_refused_and_quoted(name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' is not the name of a part"):
        to_original([name])
