"""Text conditioning of a training step, where frozen encoders need to see no caption twice."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from ..device import to_device
from ..sdxl.parts import TOKENS, Parts, encode_pieces, join_pieces
from ..settings.options import CaptionSettings

Encoded = tuple[torch.Tensor, torch.Tensor]


class Conditioner:
    """SDXL's conditioning of token ids. What frozen encoders made of a piece of 77 tokens is kept.

    It is kept in the CPU's memory: some 0.3 MB a piece, which ten thousand captions would take from a GPU for good.

    lasting: ids, (2, 77k), that come again; of other captions nothing is kept where the settings let them vary.
    """

    def __init__(
        self, parts: Parts, settings: CaptionSettings, device: torch.device, lasting: Iterable[torch.Tensor], *,
        trained: bool,
    ) -> None:  # fmt: skip
        self.parts, self.settings, self.device, self.trained = parts, settings, device, trained
        self._kept: dict[bytes, Encoded] = {}
        self._lasting = {_key(piece) for ids in lasting for piece in ids.split(TOKENS, dim=1)}

    def __call__(self, tokens: torch.Tensor) -> Encoded:
        """(2, N, 77k) ids to the context, (N, L, 2048), and the pooled output, (N, 1280), on the device."""
        return self.encoded(self.words(tokens))

    def words(self, tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(2, N, 77k) ids as a step takes them, on the device: the same as (N, 2, 77k), or what frozen encoders make
        of them."""
        if self.trained:
            return (to_device(tokens.transpose(0, 1).contiguous(), self.device),)
        pieces = tokens.shape[2] // TOKENS
        rows = tokens.reshape(2, -1, TOKENS)
        encoded = [self._frozen(rows[:, row]) for row in range(rows.shape[1])]
        context, pooled = (to_device(torch.stack(values), self.device) for values in zip(*encoded, strict=True))
        return self._joined(context, pooled, pieces)

    def encoded(self, words: tuple[torch.Tensor, ...]) -> Encoded:
        """The context, (N, L, 2048), and the pooled output, (N, 1280), of ``words``."""
        if not self.trained:
            return words[0], words[1]
        rows = words[0].transpose(0, 1)
        return self._joined(*encode_pieces(self.parts, rows.reshape(2, -1, TOKENS)), rows.shape[2] // TOKENS)

    def _joined(self, context: torch.Tensor, pooled: torch.Tensor, pieces: int) -> Encoded:
        return join_pieces(context, pooled, pieces, joined=self.settings.long_captions == "kohya")

    def _frozen(self, ids: torch.Tensor) -> Encoded:
        """One piece, (2, 77) ids, to (77, 2048) and (1280,) in the CPU's memory."""
        key = _key(ids)
        if (encoded := self._kept.get(key)) is None:
            with torch.no_grad():
                context, pooled = encode_pieces(self.parts, to_device(ids[:, None], self.device))
            encoded = context[0].cpu(), pooled[0].cpu()
            if not self.settings.varies or key in self._lasting:
                self._kept[key] = encoded
        return encoded

    def release(self, captions: Iterable[torch.Tensor]) -> bool:
        """Encode captions, (2, 77k) each, and let go of the encoders; False where they are needed on."""
        if self.trained or self.settings.varies:
            return False
        for ids in captions:
            for piece in ids.split(TOKENS, dim=1):
                self._frozen(piece)
        for encoder in (self.parts.te1, self.parts.te2):
            encoder.to("meta")
        return True


def _key(ids: torch.Tensor) -> bytes:
    return ids.numpy().tobytes()
