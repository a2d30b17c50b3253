"""The node that puts a LoRA on MODEL and CLIP, and says what it did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy_api.latest import io

from ..folders import unknown_yet
from ..reports import report_shown
from ..sockets import LoraModel

_FROM_WIRE = "(lora input)"


class LoadLora(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MjesecLoadLora",
            display_name="Load LoRA (Mjesec)",
            category="Mjesec/LoRA",
            description="A LoRA at a strength, from a file or straight from training. Says how many modules matched, "
            "and stops if none did.",
            search_aliases=["apply lora", "lora strength", "lora weight"],
            has_intermediate_output=True,
            inputs=[
                io.Model.Input("model", tooltip="The model to adapt."),
                io.Clip.Input(
                    "clip", optional=True, tooltip="The text encoders to adapt; left open, they stay as they are."
                ),
                LoraModel.Input("lora", optional=True, tooltip="From Train SDXL LoRA. It goes before the file."),
                io.Combo.Input(
                    "lora_name",
                    options=[_FROM_WIRE, *folder_paths.get_filename_list("loras")],
                    default=_FROM_WIRE,
                    tooltip="A LoRA file; used where nothing is connected to lora.",
                ),
                io.Float.Input(
                    "strength_model",
                    default=1.0,
                    min=-100.0,
                    max=100.0,
                    step=0.05,
                    tooltip="Weight of the LoRA on the U-Net: 0 none, 1 as trained.",
                ),
                io.Float.Input(
                    "strength_clip",
                    default=1.0,
                    min=-100.0,
                    max=100.0,
                    step=0.05,
                    tooltip="Weight of the LoRA on the text encoders: 0 none, 1 as trained.",
                ),
            ],
            outputs=[
                io.Model.Output("model", tooltip="The model with the LoRA."),
                io.Clip.Output("clip", tooltip="The text encoders with the LoRA."),
                io.String.Output("report", tooltip="How many modules matched, and which did not."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, lora_name: str | None, **inputs: object) -> tuple[object, ...]:
        strengths = inputs.get("strength_model"), inputs.get("strength_clip")
        if lora_name is None:
            return unknown_yet(), *strengths
        path = folder_paths.get_full_path("loras", lora_name)
        stamp = Path(path).stat().st_mtime_ns if path else None
        return lora_name, stamp, *strengths

    @classmethod
    def execute(
        cls,
        model: Any,
        lora_name: str,
        strength_model: float,
        strength_clip: float,
        clip: Any = None,
        lora: dict[str, torch.Tensor] | None = None,
    ) -> io.NodeOutput:
        from .apply import lora_from_file, match_lora

        if lora is None:
            lora = lora_from_file(lora_name if lora_name != _FROM_WIRE else "")
        match = match_lora(model, clip, lora)
        report = match.report()
        new_model, new_clip = match.put_on(model, clip, strength_model, strength_clip)
        return io.NodeOutput(new_model, new_clip, report, ui=report_shown(report))


NODES = [LoadLora]
