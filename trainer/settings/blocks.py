"""The U-Net's blocks by the names that LoRA tools give them: IN00 … IN08, MID, OUT00 … OUT08."""

from __future__ import annotations

import re

BLOCKS = (*(f"IN{n:02d}" for n in range(9)), "MID", *(f"OUT{n:02d}" for n in range(9)))
_PLACE = re.compile(r"lora_unet_(input|output)_blocks_(\d+)_")


def block_of(name: str) -> str | None:
    """The block of a module by kohya's name; None for what lies in none, such as the text encoders."""
    if match := _PLACE.match(name):
        return f"{'IN' if match[1] == 'input' else 'OUT'}{int(match[2]):02d}"
    return "MID" if name.startswith("lora_unet_middle_block_") else None
