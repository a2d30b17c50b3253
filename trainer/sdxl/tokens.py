"""Captions as SDXL's token ids: one piece of 77, or several for long captions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from ..settings.options import CaptionSettings
from .parts import TOKENS, pad_tokens

Tokenize = Callable[[str], Sequence[int]]
"""A caption to CLIP's token ids with start and end, uncut."""
_PIECE = TOKENS - 2


def caption_ids(caption: str, settings: CaptionSettings, tokenize: Tokenize) -> tuple[torch.Tensor, int]:
    """(2, 77k) int64 and how many tokens were cut: k pieces, as many as the caption needs and the settings allow.

    For ``long_captions`` = kohya always as many as the settings allow, as sd-scripts' get_input_ids fills them up.
    """
    ids = tokenize(caption)
    most = settings.tokens // _PIECE
    needed = max(1, -(-(len(ids) - 2) // _PIECE))
    first, second, cut = pad_tokens(ids, most if settings.long_captions == "kohya" else min(most, needed))
    return torch.tensor([first, second]), cut


def stack_ids(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    """(2, N, 77k) of N captions; those with fewer pieces get empty ones behind."""
    longest = max(row.shape[1] for row in rows)
    return torch.stack([_lengthened(row, longest) for row in rows], dim=1)


def _lengthened(row: torch.Tensor, length: int) -> torch.Tensor:
    if row.shape[1] == length:
        return row
    return torch.cat([row, empty_pieces(row, (length - row.shape[1]) // TOKENS)], dim=1)


def empty_pieces(row: torch.Tensor, count: int = 1) -> torch.Tensor:
    """(2, 77·count): pieces without words, with the start and end of another caption's (2, 77k) ids."""
    first, second, _ = pad_tokens([int(row[0, 0]), int(row[0, TOKENS - 1])], count)
    return torch.tensor([first, second])
