"""The node that measures how well a LoRA predicts noise at each of its weights, on images that it knows and others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import folder_paths
from comfy_api.latest import io

from ...figures import Axis, parse_values
from ..progress import NodeWatcher
from ..reports import report_shown
from ..sockets import DatasetSocket, GridSocket, LoraModel, TrainSettingsSocket
from ..sweep.grid import CellResult, Grid

_NO_FILE = "(lora input)"
PARTS = ("trained on", "held out")


class LossByWeight(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MjesecLossByWeight",
            display_name="Loss by Weight",
            category="Mjesec/figure",
            description="The loss of a LoRA at several weights, on images that it was trained on and on images that "
            "were held out: where the first falls and the second rises, the LoRA is overfitted.",
            search_aliases=["overfitting", "validation loss", "held out"],
            has_intermediate_output=True,
            not_idempotent=True,
            inputs=[
                io.Model.Input("model", tooltip="Without the LoRA."),
                io.Clip.Input("clip", tooltip="Without the LoRA; encodes the captions."),
                io.Vae.Input("vae", tooltip="Encodes the images."),
                DatasetSocket.Input(
                    "dataset",
                    tooltip="The images of the training, all of them; those of regularisation are not measured.",
                ),
                TrainSettingsSocket.Input(
                    "settings", tooltip="Those of the training: they tell what was held out, and the trigger word."
                ),
                LoraModel.Input("lora", optional=True, tooltip="From Train SDXL LoRA. It goes before the file."),
                io.Combo.Input(
                    "lora_name",
                    options=[_NO_FILE, *folder_paths.get_filename_list("loras")],
                    default=_NO_FILE,
                    tooltip="A LoRA file; used where nothing is connected to lora.",
                ),
                io.String.Input(
                    "weights", default="0-1.25[6]", tooltip="LoRA weights, as in Sweep Axis: lists and ranges."
                ),
                io.Int.Input(
                    "images",
                    default=8,
                    min=1,
                    max=1000,
                    tooltip="At most so many images of each kind are measured, drawn from all folders alike.",
                ),
            ],
            outputs=[
                GridSocket.Output("numbers", tooltip="For Figure: columns are weights, rows the two kinds of image."),
                io.String.Output("report", tooltip="Every number, and the weight with the least held-out loss."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, weights: str | None) -> bool | str:
        if weights is None:
            return True
        try:
            parse_values("lora_weight", weights)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls, model: Any, clip: Any, vae: Any, dataset: Any, settings: Any, lora_name: str, weights: str, images: int,
        lora: Any = None,
    ) -> io.NodeOutput:  # fmt: skip
        from ...trainer.runs.validate import drawn
        from ...trainer.training.caption_variants import fixed_caption
        from ..checkpoint_name import checkpoint_name
        from ..lora.apply import lora_from_file
        from ..sweep.cell_key import Keys, environment
        from ..sweep.sampling import Subject
        from .loss_probe import Probe

        if not settings.validation_images:
            raise ValueError("These settings hold no images out; train with validation_images, such as 8.")
        trained, held_out = dataset.split(settings.validation_images, settings.seed)
        given = lora if lora is not None else lora_from_file("" if lora_name == _NO_FILE else lora_name)
        probe = Probe(model, clip, vae, given, NodeWatcher(cls.hidden.unique_id))
        axes = (Axis("lora_weight", parse_values("lora_weight", weights)), Axis("images", PARTS, "Images"))
        parts = [
            [
                replace(sample, caption=fixed_caption(sample.caption, settings.captions))
                for sample in drawn(part, images)
            ]
            for part in (trained.samples, held_out.samples)
        ]
        table = probe.losses([float(weight) for weight in axes[0].values], parts)
        numbers = {(at, part): loss for at, row in enumerate(table) for part, loss in enumerate(row)}
        results = tuple(CellResult("", "no image", 0.0) for _ in numbers)
        about = {
            "environment": environment(),
            "hashes": Keys(Subject(model, clip, vae, given)).hashes(),
            "parameters": {"wired_checkpoint": checkpoint_name(model), "lora_name": lora_name, "images": images},
            "prompts": list(dict.fromkeys(sample.caption for part in parts for sample in part)),
        }
        grid = Grid(axes, results, about, numbers=numbers, measure="Loss of the predicted noise (mean squared error)")
        text = _report(axes[0].texts, table)
        if left_out := probe.match.left_out:
            text += f"\nThe LoRA fits in part: {left_out}"
        return io.NodeOutput(grid, text, ui=report_shown(text))


def _report(weights: tuple[str, ...], table: list[list[float]]) -> str:
    lines = [
        f"LoRA weight {weight}: {PARTS[0]} {row[0]:.4f}, {PARTS[1]} {row[1]:.4f}, gap {row[1] - row[0]:+.4f}."
        for weight, row in zip(weights, table, strict=True)
    ]
    best = min(range(len(table)), key=lambda at: table[at][1])
    return "\n".join([f"Least held-out loss at LoRA weight {weights[best]}.", *lines])


NODES = [LossByWeight]
