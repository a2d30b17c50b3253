"""Attention in plain products is torch's fused attention, forwards and backwards."""

from __future__ import annotations

import pytest
import torch
from pack.trainer.sdxl import attention
from pack.trainer.sdxl.attention import DirectAttention, attend
from tiny_parts import make_unet, seeded
from torch.nn import functional as F


def projections(length: int, context: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    sizes = (length, context, context)
    return [torch.randn(2, 3, size, 8, generator=generator).requires_grad_() for size in sizes]


def outcome(function: object, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """What comes out, and the gradients of queries, keys and values."""
    out = function(*tensors)  # type: ignore[operator]
    weights = torch.linspace(-1, 1, out.numel()).view_as(out)
    return [out, *torch.autograd.grad((out * weights).sum(), tensors)]


@pytest.mark.parametrize(("length", "context"), [(16, 16), (64, 77), (5, 1), (1, 9)])
@pytest.mark.parametrize("most_scores", [0, 1_000_000])
def test_output_and_gradients_are_those_of_the_fused_kernel(
    monkeypatch: pytest.MonkeyPatch, length: int, context: int, most_scores: int
) -> None:
    monkeypatch.setattr(attention, "MOST_SCORES", most_scores)
    tensors = projections(length, context)
    for ours, theirs in zip(outcome(attend, tensors), outcome(F.scaled_dot_product_attention, tensors), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_the_u_net_predicts_the_same_with_either_processor() -> None:
    with seeded(7):
        unet = make_unet()
        noisy, context = torch.randn(2, 4, 8, 8), torch.randn(2, 77, unet.config.cross_attention_dim)
        pooled = torch.randn(2, unet.config.projection_class_embeddings_input_dim - 6 * 256)
    extra = {"text_embeds": pooled, "time_ids": torch.arange(12.0).view(2, 6)}

    def predict() -> torch.Tensor:
        with torch.no_grad():
            return unet(noisy, 500, encoder_hidden_states=context, added_cond_kwargs=extra, return_dict=False)[0]

    stock = predict()
    unet.set_attn_processor(DirectAttention())
    torch.testing.assert_close(predict(), stock, rtol=1e-4, atol=1e-5)


def test_a_mask_is_refused_rather_than_ignored() -> None:
    unet = make_unet()
    layer = next(module for name, module in unet.named_modules() if name.endswith("attn1"))
    hidden = torch.zeros(1, 4, layer.query_dim)
    with pytest.raises(ValueError, match="without masks"):
        DirectAttention()(layer, hidden, attention_mask=torch.zeros(1, 4))
