"""The node that says what kind of adapter is trained, on which layers, and whether its mean is saved."""

from __future__ import annotations

from dataclasses import replace

from comfy_api.latest import io

from ...trainer.settings.arguments import parse_words
from ...trainer.settings.options import EMA_FILES, INITIALS, KINDS, EmaSettings
from ...trainer.settings.training import STORAGES, TrainSettings
from .changes import changed
from .options import changed_settings, settings_input, share_input
from .settings import CATEGORY


class AdapterOptions(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MjesecAdapterOptions",
            display_name="Adapter Options",
            category=CATEGORY,
            description="What is trained: LoRA, LoHa or LoKr; DoRA, rsLoRA, PiSSA; convolutions; single blocks; "
            "drop-out; a running mean of the weights; and how the frozen base is stored.",
            search_aliases=["dora", "rslora", "pissa", "loha", "lokr", "lycoris", "conv_dim", "block weight", "ema"],
            has_intermediate_output=True,
            inputs=[settings_input(), *_kind_inputs(), *_layer_inputs(), *_drop_inputs(), *_mean_inputs()],
            outputs=changed_settings(),
        )

    @classmethod
    def execute(
        cls,
        settings: TrainSettings,
        skip_blocks: str,
        ema_decay: float,
        ema_file: str,
        base_storage: str,
        **values: object,
    ) -> io.NodeOutput:
        adapter = replace(settings.adapter, skip_blocks=parse_words(skip_blocks.upper()), **values)  # type: ignore[arg-type]
        ema = EmaSettings(ema_decay, ema_file)
        return changed(settings, adapter=adapter, ema=ema, base_storage=base_storage)


def _kind_inputs() -> list[io.Input]:
    return [
        io.Combo.Input(
            "kind",
            options=list(KINDS),
            default="lora",
            tooltip="lora; loha (two low-rank products multiplied) and lokr (a Kronecker product) as LyCORIS writes "
            "them.",
        ),
        io.Combo.Input(
            "initial",
            options=list(INITIALS),
            default="kaiming",
            tooltip="kaiming starts at nothing. pissa starts at the base's largest singular values and learns faster; "
            "the file is a plain LoRA of twice the rank.",
        ),
        io.Boolean.Input("rank_stabilized", default=False, tooltip="rsLoRA: scales by alpha / √rank, for high ranks."),
        io.Boolean.Input(
            "dora",
            default=False,
            tooltip="Learns each output's magnitude apart from its direction: better at low ranks, slower. Its "
            "magnitudes are written for ComfyUI.",
        ),
        io.Int.Input("lokr_factor", default=-1, min=-1, max=4096, tooltip="LoKr's smaller factor; -1 splits evenly."),
    ]


def _layer_inputs() -> list[io.Input]:
    return [
        io.Int.Input(
            "conv_rank",
            default=0,
            min=0,
            max=1024,
            tooltip="conv_dim: also adapts the 3×3 convolutions with this rank and the rest of their blocks with the "
            "common one; 0: not.",
        ),
        io.Float.Input("conv_alpha", default=1.0, min=0.001, max=4096.0, step=0.5, tooltip="conv_alpha: their alpha."),
        io.String.Input(
            "skip_blocks",
            default="",
            tooltip="Blocks of the U-Net that stay as they are, such as IN04, MID, OUT03 (IN00 to IN08, MID, OUT00 to "
            "OUT08).",
        ),
        io.String.Input(
            "include", default="", tooltip="Only layers whose kohya name matches this regular expression; empty: all."
        ),
        io.String.Input(
            "exclude", default="", tooltip="No layers whose kohya name matches this regular expression; empty: none."
        ),
    ]


def _drop_inputs() -> list[io.Input]:
    return [
        share_input("dropout", "Share of the inner values that a step leaves out (lora only)."),
        share_input("rank_dropout", "Share of the ranks that a step leaves out."),
        share_input("module_dropout", "Share of the layers whose adapter a step leaves out."),
    ]


def _mean_inputs() -> list[io.Input]:
    return [
        io.Float.Input(
            "ema_decay",
            default=0.0,
            min=0.0,
            max=0.99999,
            step=0.001,
            round=1e-6,
            tooltip="Keeps a running mean of the weights; 0.999 remembers about 1000 steps, fewer at first; 0 is off.",
        ),
        io.Combo.Input(
            "ema_file",
            options=list(EMA_FILES),
            default="instead",
            tooltip="The mean is the run's LoRA, or is saved beside it as name-ema.safetensors.",
        ),
        io.Combo.Input(
            "base_storage",
            options=list(STORAGES),
            default="as given",
            tooltip="How the frozen U-Net is kept, its first and last layers and its embeddings aside: fp8 and int8 "
            "take half of bf16's memory (int8 is the closer one), nf4 little more than a quarter and needs "
            "bitsandbytes. The LoRA is a plain one.",
        ),
    ]


NODES = [AdapterOptions]
