"""Attention in plain products, for a CPU.

There, the backward pass of torch's fused attention takes two to three times as long as the products themselves. What
fusing saves is the memory of the scores, which counts only for large images.
"""

from __future__ import annotations

import torch
from diffusers.models.attention_processor import Attention
from torch.nn import functional as F

# 20 heads of 256×1024 scores are 10 MB in bf16; SDXL keeps those of 140 attentions for the backward pass
MOST_SCORES = 256 * 1024


class DirectAttention:
    """A diffusers attention processor for SDXL's U-Net: softmax(QKᵀ/√d)V, fused only where the scores are many.

    What SDXL does not have is not there: masks, norms on queries or keys, residual connections inside.
    """

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """hidden_states (N, L, C); encoder_hidden_states (N, S, D), or None for self-attention. Returns (N, L, C)."""
        if attention_mask is not None:
            raise ValueError("SDXL's U-Net attends without masks.")
        return self.attended(attn, hidden_states, encoder_hidden_states)

    def attended(self, attn: Attention, hidden_states: torch.Tensor, other: torch.Tensor | None) -> torch.Tensor:
        """hidden_states (N, L, C); other (N, S, D), what they attend to, or None for themselves. Returns (N, L, C)."""
        context = hidden_states if other is None else other
        queries, keys, values = (
            projected.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for projected in (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
        )
        out = attend(queries, keys, values).transpose(1, 2).flatten(2)
        return attn.to_out[0](out)


def attend(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """softmax(QKᵀ/√d)V of (N, heads, L, d) and (N, heads, S, d), twice."""
    if queries.shape[-2] * keys.shape[-2] > MOST_SCORES:
        return F.scaled_dot_product_attention(queries, keys, values)
    scores = (queries * queries.shape[-1] ** -0.5) @ keys.transpose(-1, -2)
    return scores.softmax(dim=-1) @ values
