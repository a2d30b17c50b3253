"""A base stored in bf16 that computes in fp32: the numbers of a widened copy, without the copy."""

from __future__ import annotations

import copy

import pytest
import torch
from pack.trainer.adapters.adapters import add_adapters
from pack.trainer.sdxl.frozen import Scratch, compute_in
from pack.trainer.sdxl.precision import compute_dtype
from tiny_parts import make_parts, make_settings, randomize, start_over
from torch import nn

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(6, 5), (2, 3, 6)),
        (nn.Linear(6, 5, bias=False), (4, 6)),
        (nn.Conv2d(4, 8, 3, padding=1), (2, 4, 6, 5)),
        (nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2), (1, 4, 8, 8)),
        (nn.Conv2d(4, 2, 1, bias=False), (1, 4, 3, 3)),
        (nn.LayerNorm(6), (2, 6)),
        (nn.GroupNorm(2, 4), (2, 4, 3, 3)),
    ],
    ids=str,
)
def test_a_layer_computes_as_its_widened_copy(layer: nn.Module, shape: tuple[int, ...]) -> None:
    stored = layer.to(torch.bfloat16).requires_grad_(False)
    wide = copy.deepcopy(stored).float()
    before = {name: tensor.clone() for name, tensor in stored.state_dict().items()}
    held = dict(stored.named_parameters())
    compute_in(stored, torch.float32)
    outcomes = []
    for each in (stored, wide):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).requires_grad_()
        out = each(x)
        (grad,) = torch.autograd.grad((out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum(), x)
        outcomes.append((out, grad))
    for ours, theirs in zip(*outcomes, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert all(torch.equal(held[name], tensor) for name, tensor in before.items()), "the given weights were changed"


def test_an_embedding_gives_widened_vectors() -> None:
    layer = nn.Embedding(7, 3).to(torch.bfloat16).requires_grad_(False)
    compute_in(layer, torch.float32)
    out = layer(torch.tensor([[1, 6]]))
    assert out.dtype == torch.float32
    assert torch.equal(out, layer.weight[[1, 6]].float()[None])


def test_what_is_trained_or_of_that_dtype_already_is_left_alone() -> None:
    trained, wide = nn.Linear(2, 2).to(torch.bfloat16), nn.Linear(2, 2).requires_grad_(False)
    for layer in (trained, wide):
        compute_in(layer, torch.float32)
        assert "forward" not in vars(layer)


def test_room_is_used_again_and_a_tensor_of_that_dtype_is_itself() -> None:
    scratch, narrow = Scratch(), torch.arange(6, dtype=torch.bfloat16).view(2, 3)
    first = scratch.widened(narrow, torch.float32)
    assert first.dtype == torch.float32
    assert torch.equal(first, narrow.float())
    second = scratch.widened(narrow[0] + 1, torch.float32)
    assert second.data_ptr() == first.data_ptr()
    assert torch.equal(second, torch.tensor([1.0, 2, 3]))
    assert scratch.widened(first, torch.float32) is first


def test_a_whole_unet_with_adapters_gives_the_fp32_gradients() -> None:
    outcomes = []
    for widened in (False, True):
        parts = make_parts(torch.bfloat16)
        if widened:
            parts.unet.float()
        else:
            compute_in(parts.unet, torch.float32)
        adapters = add_adapters(parts, make_settings(train="unet"))
        start_over(adapters)
        randomize(adapters)
        out = _predict(parts.unet)
        out.square().mean().backward()
        outcomes.append([out.detach(), *(p.grad for p in adapters.parameters())])
    for ours, theirs in zip(*outcomes, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def _predict(unet: nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    config = unet.config

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    extra = {"text_embeds": draw(1, pooled), "time_ids": torch.full((1, 6), 64.0)}
    context = draw(1, 7, config.cross_attention_dim)
    return unet(draw(1, 4, 16, 16), torch.tensor([300]), encoder_hidden_states=context, added_cond_kwargs=extra)[0]


@pytest.mark.parametrize(
    ("capability", "has", "precision", "wanted"),
    [
        ("AVX2", (), "bf16", torch.float32),
        ("DEFAULT", (), "fp16", torch.float32),
        ("AVX512", (), "bf16", torch.float32),
        ("AVX512", ("fp16",), "bf16", torch.float32),
        ("AVX512", ("avx512_bf16",), "bf16", torch.bfloat16),
        ("AVX512", ("amx_tile",), "bf16", torch.bfloat16),
        ("AVX512_VNNI", ("avx512_bf16",), "fp16", torch.float32),
        ("AVX512", ("fp16",), "fp16", torch.float16),
        ("NEON", (), "bf16", torch.bfloat16),
        ("AVX2", (), "fp32", torch.float32),
    ],
)
def test_a_cpu_without_half_products_computes_in_fp32(
    monkeypatch: pytest.MonkeyPatch, capability: str, has: tuple[str, ...], precision: str, wanted: torch.dtype
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    for name in ("avx512_bf16", "amx_tile"):
        monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda name=name: name in has, raising=False)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_fp16_supported", lambda: "fp16" in has)
    assert compute_dtype(precision, CPU) == wanted
    assert compute_dtype("bf16", torch.device("cuda")) == torch.bfloat16
