"""The single-file layout of SDXL, from diffusers' and transformers' names and back."""

from __future__ import annotations

import hashlib

import pytest
import tiny_parts
import torch
from pack.trainer.sdxl.checkpoint import (
    TE1_PREFIX,
    TE2_PREFIX,
    UNET_PREFIX,
    VAE_PREFIX,
    canonical_text_names,
    join,
    openclip_state,
    transformers_state,
)

# prefix: (weights, SHA-256 over sorted "name shape"), made from ComfyUI 0.30.0's own CLIP classes as it saves them,
# without position_ids and logit_scale, which are no weights
FULL_SIZE = {
    TE1_PREFIX: (196, "e021d8431c691236d76030093e4a8d83f463fef3e92a961ec5b00ce5fa292cd6"),
    TE2_PREFIX: (389, "82d13d2aa8753c90421107fe9c6f49183e778b4666f781745145f404c92109dc"),
}


@pytest.fixture(scope="module")
def full_size() -> dict[str, torch.Tensor]:
    parts = tiny_parts.full_size_parts()
    return join(
        parts.unet.state_dict(), parts.te1.state_dict(), parts.te2.state_dict(), {"decoder.conv": torch.ones(1)}
    )


@pytest.mark.parametrize("prefix", FULL_SIZE)
def test_text_encoders_have_the_names_and_shapes_of_the_published_file(
    full_size: dict[str, torch.Tensor], prefix: str
) -> None:
    lines = sorted(f"{name} {tuple(tensor.shape)}" for name, tensor in full_size.items() if name.startswith(prefix))
    assert (len(lines), hashlib.sha256("\n".join(lines).encode()).hexdigest()) == FULL_SIZE[prefix]


def test_four_parts_make_one_file_and_nothing_is_lost(full_size: dict[str, torch.Tensor]) -> None:
    counts = {
        prefix: sum(name.startswith(prefix) for name in full_size)
        for prefix in (UNET_PREFIX, TE1_PREFIX, TE2_PREFIX, VAE_PREFIX)
    }
    assert counts == {UNET_PREFIX: 1680, TE1_PREFIX: 196, TE2_PREFIX: 389, VAE_PREFIX: 1}
    assert sum(counts.values()) == len(full_size)


def test_bigg_survives_the_way_to_openclips_names_and_back() -> None:
    state = tiny_parts.text_state(True)
    tiny_parts.assert_same(transformers_state(openclip_state(state)), state)


def test_openclip_stacks_query_key_and_value_and_transposes_the_projection() -> None:
    state = tiny_parts.text_state(True)
    stacked = openclip_state(state)
    layer = "text_model.encoder.layers.1.self_attn."
    rows = torch.cat([state[f"{layer}{letter}_proj.weight"] for letter in "qkv"])
    assert torch.equal(stacked["transformer.resblocks.1.attn.in_proj_weight"], rows)
    assert torch.equal(stacked["text_projection"], state["text_projection.weight"].T)


def test_unstacking_makes_views_and_no_copies() -> None:
    stacked = openclip_state(tiny_parts.text_state(True))
    whole = stacked["transformer.resblocks.0.attn.in_proj_weight"]
    key = transformers_state(stacked)["text_model.encoder.layers.0.self_attn.k_proj.weight"]
    assert key.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()


@pytest.mark.parametrize("projection", [False, True], ids=["CLIP-L", "bigG"])
def test_text_names_are_the_same_whatever_transformers_calls_them(projection: bool) -> None:
    with tiny_parts.on_meta():
        names = list(tiny_parts.make_text_encoder(projection).state_dict())
    bare = [name.removeprefix("text_model.") for name in names]
    assert sorted(canonical_text_names(names).values()) == sorted(canonical_text_names(bare).values())
