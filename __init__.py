"""Mjesec: a LoRA laboratory inside ComfyUI."""

from __future__ import annotations

from typing import Any

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> Any:
    # importing the nodes only here keeps this package importable where there is no host
    from .nodes import MjesecExtension

    return MjesecExtension()
