"""SDXL around weights that somebody else owns, and what it is conditioned on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import tiny_parts
import torch
from pack.trainer.errors import ModelError
from pack.trainer.sdxl.parts import EOS, build_text_encoder, build_unet, encode_text, pad_tokens, size_ids, unet_config
from pack.trainer.sdxl.unet_names import to_original
from torch import nn

State = dict[str, torch.Tensor]


def full_size_state() -> State:
    with tiny_parts.on_meta():
        state = tiny_parts.full_size_unet().state_dict()
    names = to_original(state)
    return {names[name]: tensor for name, tensor in state.items()}


def test_the_configuration_of_sdxl_follows_from_its_weights() -> None:
    config = unet_config(full_size_state())
    # from the config.json that Stability publishes beside the weights
    published = {
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (320, 640, 1280),
        "layers_per_block": 2,
        "transformer_layers_per_block": [1, 2, 10],
        "attention_head_dim": [5, 10, 20],
        "cross_attention_dim": 2048,
        "projection_class_embeddings_input_dim": 2816,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "use_linear_projection": True,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "sample_size": 128,
    }
    assert config == published


def test_a_full_size_unet_is_built_from_shapes_alone() -> None:
    unet = build_unet(full_size_state())
    assert sum(parameter.numel() for parameter in unet.parameters()) == 2_567_463_684


def addresses(state: State) -> set[int]:
    return {tensor.data_ptr() for tensor in state.values()}


def test_the_networks_use_the_given_weights_and_copy_none() -> None:
    state, te1, te2 = tiny_parts.unet_state(), tiny_parts.text_state(False), tiny_parts.text_state(True)
    built = [
        (state, build_unet(state, tiny_parts.HEAD_CHANNELS)),
        (te1, build_text_encoder(te1, projection=False, heads=2)),
        (te2, build_text_encoder(te2, projection=True, heads=2)),
    ]
    for weights, module in built:
        assert {parameter.data_ptr() for parameter in module.parameters()} == addresses(weights)
        assert not any(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_keep_their_precision(dtype: torch.dtype) -> None:
    parts = tiny_parts.make_parts(dtype)
    assert {parameter.dtype for module in parts.modules() for parameter in module.parameters()} == {dtype}


def test_the_unet_computes_what_the_network_its_weights_came_from_computes() -> None:
    with tiny_parts.seeded(9):
        # torch multiplies by weights that may be trained in another order
        source = tiny_parts.make_unet().requires_grad_(False)
        inputs = (torch.randn(2, 4, 8, 8), torch.tensor([3, 700]))
        conditioning = {
            "encoder_hidden_states": torch.randn(2, 77, 32),
            "added_cond_kwargs": {"text_embeds": torch.randn(2, 16), "time_ids": torch.rand(2, 6) * 64},
        }
    names = to_original(source.state_dict())
    built = build_unet({names[n]: t for n, t in source.state_dict().items()}, tiny_parts.HEAD_CHANNELS)
    with torch.no_grad():
        assert torch.equal(built(*inputs, **conditioning).sample, source(*inputs, **conditioning).sample)


def without(*names: str) -> Callable[[State], State]:
    return lambda state: {name: tensor for name, tensor in state.items() if name not in names}


def with_shape(name: str, *shape: int) -> Callable[[State], State]:
    return lambda state: {**state, name: torch.zeros(shape)}


WRONG_UNETS = {
    "empty": (lambda state: {}, ["not SDXL", "input_blocks.0.0.weight"]),
    "Stable Diffusion 1.5": (without("label_emb.0.0.weight"), ["not SDXL", "label_emb.0.0.weight"]),
    "inpainting": (with_shape("input_blocks.0.0.weight", 32, 9, 3, 3), ["9 channels", "inpainting"]),
    "four levels, as the refiner": (
        with_shape("input_blocks.10.0.out_layers.3.weight", 64, 64, 3, 3),
        ["not SDXL", "another shape"],
    ),
    "convolutions for projections": (with_shape("input_blocks.4.1.proj_in.weight", 32, 32, 1, 1), ["not SDXL"]),
    "a weight is missing": (without("middle_block.1.norm.bias"), ["'middle_block.1.norm.bias'", "missing"]),
    "a weight too many": (with_shape("input_blocks.4.9.weight", 1), ["'input_blocks.4.9.weight'", "unknown"]),
    "a weight of another shape": (with_shape("middle_block.1.norm.bias", 7), ["mid_block.attentions.0.norm.bias", "7"]),
    "another context": (
        with_shape("input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight", 32, 48),
        ["(32, 48)", "does not fit SDXL"],
    ),
}


@pytest.mark.parametrize("change, words", WRONG_UNETS.values(), ids=WRONG_UNETS)
def test_a_unet_that_is_not_sdxl_is_refused_in_one_sentence(change: Callable[[State], State], words: list[str]) -> None:
    with pytest.raises(ModelError) as caught:
        build_unet(change(tiny_parts.unet_state()), tiny_parts.HEAD_CHANNELS)
    for word in ["MODEL", *words]:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


EMBEDDING = "text_model.embeddings.token_embedding.weight"
FC1 = "text_model.encoder.layers.0.mlp.fc1.weight"
POSITIONS = "text_model.embeddings.position_embedding.weight"
NORM = "text_model.encoder.layers.1.layer_norm2.weight"
WRONG_CLIPS = {
    "T5": (lambda state: {"encoder.block.0.weight": torch.ones(1)}, ["token_embedding"]),
    "no layers": (lambda state: {EMBEDDING: state[EMBEDDING]}, ["has no"]),
    "no positions": (without(POSITIONS), [POSITIONS, "has no"]),
    "no first layer": (without(FC1), [FC1, "has no"]),
    "a layer without its norm": (without(NORM), [NORM, "missing"]),
    "no projection": (without("text_projection.weight"), ["text_projection.weight", "missing"]),
    "a weight of another shape": (with_shape("text_model.final_layer_norm.bias", 7), ["final_layer_norm.bias", "7"]),
}


@pytest.mark.parametrize("change, words", WRONG_CLIPS.values(), ids=WRONG_CLIPS)
def test_a_text_encoder_of_another_model_is_refused_in_one_sentence(
    change: Callable[[State], State], words: list[str]
) -> None:
    with pytest.raises(ModelError) as caught:
        build_text_encoder(change(tiny_parts.text_state(True)), projection=True, heads=2)
    for word in ["CLIP", *words]:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def output_of(module: nn.Module, name_end: str, run: Callable[[], object]) -> torch.Tensor:
    """What the submodule whose name ends so gives while `run` is running."""
    (found,) = [part for name, part in module.named_modules() if name.endswith(name_end)]
    seen: list[torch.Tensor] = []
    handle = found.register_forward_hook(lambda part, args, out: seen.append(out[0] if isinstance(out, tuple) else out))
    run()
    handle.remove()
    return seen[0]


def ids_of(*captions: str) -> torch.Tensor:
    rows = [pad_tokens(tiny_parts.tokenize(caption))[:2] for caption in captions]
    return torch.tensor(rows).movedim(1, 0)


@torch.no_grad()
def test_the_context_is_what_each_encoder_gives_before_its_last_layer() -> None:
    parts, ids = tiny_parts.make_parts(), ids_of("a moon", "the sun over the sea")
    context, _ = encode_text(parts, ids)
    before_last = f"layers.{tiny_parts.TEXT_LAYERS - 2}"
    first = output_of(parts.te1, before_last, lambda: encode_text(parts, ids))
    second = output_of(parts.te2, before_last, lambda: encode_text(parts, ids))
    assert context.shape == (2, 77, 2 * tiny_parts.TEXT_WIDTH)
    assert torch.equal(context, torch.cat([first, second], dim=-1))


@torch.no_grad()
def test_the_pooled_output_is_biggs_at_the_first_end_token_projected() -> None:
    parts, ids = tiny_parts.make_parts(), ids_of("a moon", "the sun over the sea")
    _, pooled = encode_text(parts, ids)
    normed = output_of(parts.te2, "final_layer_norm", lambda: encode_text(parts, ids))
    # start, two or five words, end
    ends = torch.stack([normed[0, 3], normed[1, 6]])
    torch.testing.assert_close(pooled, ends @ parts.te2.text_projection.weight.T)


@torch.no_grad()
def test_captions_do_not_influence_each_other() -> None:
    parts = tiny_parts.make_parts()
    together = encode_text(parts, ids_of("a moon", "the sun over the sea"))
    alone = encode_text(parts, ids_of("the sun over the sea"))
    for both, single in zip(together, alone, strict=True):
        torch.testing.assert_close(both[1:], single)


@pytest.mark.parametrize(
    ("words", "cut"), [(0, 0), (1, 0), (74, 0), (75, 0), (76, 1), (200, 125)], ids=lambda value: str(value)
)
def test_captions_are_padded_to_77_tokens_or_cut_to_75_words(words: int, cut: int) -> None:
    inner = list(range(1, words + 1))
    first, second, lost = pad_tokens([49406, *inner, EOS])
    kept = min(words, 75)
    assert lost == cut
    assert first == [49406, *inner[:kept], EOS] + [EOS] * (75 - kept)
    assert second == [49406, *inner[:kept], EOS] + [0] * (75 - kept)


def test_sizes_are_told_as_height_before_width_and_top_before_left() -> None:
    assert size_ids(original=(3000, 2000), crop=(16, 3), target=(1216, 832)) == [2000, 3000, 3, 16, 832, 1216]
