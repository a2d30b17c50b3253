"""How well an image fits its prompt by CLIP (Hessel et al. 2021, without its factor of 2.5 and its cut at 0)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from ...figures import cells
from ..images import to_tensor
from ..sweep.grid import Grid, Index

_PAIRS = {1280: "ViT-bigG", 1024: "ViT-H", 768: "ViT-L"}


def clip_scores(grid: Grid, clip_vision: Any, clip: Any) -> dict[Index, float | None]:
    """Cosine of each cell's image and prompt, from -1 to 1; None for failed cells.

    The text's side is what the CLIP pools, which for SDXL is its second encoder's (bigG) projection. A prompt of more
    than 75 tokens counts with its first 75.

    Raises:
        ValueError: something is not connected, the two are no pair, or the cells have no prompt of their own.
    """
    if clip_vision is None or clip is None:
        raise ValueError("CLIP score needs clip_vision and clip; connect both.")
    if "positive" in grid.about.get("wired", ()):
        raise ValueError("positive_conditioning took the prompt's place in this sweep, so there is no text to compare.")
    texts: dict[str, torch.Tensor] = {}
    found: dict[Index, float | None] = {}
    for cell in cells(grid.axes):
        image = grid.image(cell)
        if image is None:
            found[cell.index] = None
            continue
        prompt = (grid.result(cell).parameters or {}).get("prompt")
        if not isinstance(prompt, str):
            raise ValueError("These cells tell no prompt; CLIP score measures the cells of a Sweep.")
        if prompt not in texts:
            texts[prompt] = _of_text(clip, prompt)
        found[cell.index] = _cosine(_of_image(clip_vision, to_tensor(image)), texts[prompt])
    return found


def _of_text(clip: Any, prompt: str) -> torch.Tensor:
    _, pooled = clip.encode_from_tokens(clip.tokenize(prompt), return_pooled=True)
    if pooled is None:
        raise ValueError("This CLIP does not pool its text into one vector; connect that of an SDXL checkpoint.")
    return pooled.float().flatten()


def _of_image(clip_vision: Any, image: torch.Tensor) -> torch.Tensor:
    embedding = clip_vision.encode_image(image)["image_embeds"]
    if embedding is None:
        raise ValueError("This CLIP_VISION gives no embedding to compare with a text; connect a CLIP's own, ViT-bigG.")
    return embedding.float().flatten()


def _cosine(image: torch.Tensor, text: torch.Tensor) -> float:
    if image.shape != text.shape:
        raise ValueError(
            f"The clip_vision embeds images in {len(image)} dimensions and the clip texts in {len(text)}: they are no "
            f"pair. Connect {_PAIRS.get(len(text), 'the vision model of this CLIP')} to clip_vision."
        )
    return float(F.cosine_similarity(image, text, dim=0))
