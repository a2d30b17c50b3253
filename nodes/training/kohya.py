"""The node that reads a kohya configuration as it is."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

from comfy_api.latest import io

from ...trainer.dataset.samples import Dataset
from ...trainer.errors import SettingsError
from ...trainer.kohya.configuration import KohyaRun, read_kohya
from ...trainer.kohya.report import report
from ...trainer.settings.training import PRECISIONS
from ..folders import offered_configs, resolve_config, unknown_yet
from ..reports import report_shown
from ..sockets import DatasetSocket, TrainSettingsSocket

CATEGORY = "Mjesec/training"
_TEXT = "the text below"


def _config_text(file: str, text: str) -> str:
    return text if file == _TEXT else resolve_config(file).read_text(encoding="utf-8-sig", errors="replace")


class LoadKohyaConfig(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MjesecLoadKohyaConfig",
            display_name="Load kohya config",
            category=CATEGORY,
            description="A config.toml of kohya_ss or sd-scripts, or its command line, as it is: every key is "
            "honoured, refused with a reason, or listed as having no effect.",
            search_aliases=["kohya", "sd-scripts", "config.toml", "import settings", "accelerate launch"],
            has_intermediate_output=True,
            inputs=[
                io.Combo.Input(
                    "file",
                    options=[_TEXT, *offered_configs()],
                    default=_TEXT,
                    tooltip="A configuration under ComfyUI's input folder (toml, json, txt, sh, bat, ps1), or the text "
                    "below.",
                ),
                io.String.Input(
                    "text",
                    default="",
                    multiline=True,
                    tooltip="A config.toml or a command line of sdxl_train_network.py, pasted whole. Read only where "
                    "no file is chosen.",
                ),
                io.String.Input(
                    "output_name", default="", tooltip="Name of the LoRA file; empty: the configuration's output_name."
                ),
                io.Int.Input(
                    "steps",
                    default=0,
                    min=0,
                    max=1_000_000,
                    tooltip="Optimizer steps in place of the configuration's; 0: its own.",
                ),
                io.Int.Input(
                    "resolution",
                    default=0,
                    min=0,
                    max=4096,
                    step=64,
                    tooltip="Side in pixels in place of the configuration's resolution; 0: its own.",
                ),
                io.Int.Input(
                    "seed",
                    default=-1,
                    min=-1,
                    max=0xFFFFFFFFFFFF,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="Seed in place of the configuration's; -1: its own, or 0 where it has none.",
                ),
                io.Combo.Input(
                    "precision",
                    options=["auto", *PRECISIONS],
                    default="auto",
                    tooltip="auto: the configuration's mixed_precision, but bf16 for fp16 where the machine does not "
                    "compute in fp16 (a CPU).",
                ),
                DatasetSocket.Input(
                    "dataset",
                    optional=True,
                    tooltip="The images of the training: gives epochs and steps an epoch, and is needed where the "
                    "configuration counts in epochs.",
                ),
                io.Clip.Input(
                    "clip", optional=True, tooltip="Only for the report, with a dataset: how many tokens are cut."
                ),
            ],
            outputs=[
                TrainSettingsSocket.Output("settings", tooltip="For Train SDXL LoRA."),
                io.String.Output("report", tooltip="Length, effective learning rates, and what became of every key."),
            ],
        )

    @classmethod
    def validate_inputs(cls, file: str | None) -> bool | str:
        try:
            if file not in (None, _TEXT):
                resolve_config(file)
        except SettingsError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, file: str | None, text: str | None = "", **values: object) -> object:
        if file is None:
            return unknown_yet()
        # a text that comes by wire is in the fingerprint of the node that gives it
        return hashlib.sha256(_config_text(file, text or "").encode()).hexdigest()

    @classmethod
    def execute(
        cls,
        file: str,
        text: str,
        output_name: str,
        steps: int,
        resolution: int,
        seed: int,
        precision: str,
        dataset: Dataset | None = None,
        clip: Any = None,
    ) -> io.NodeOutput:
        config = read_kohya(_config_text(file, text))
        overrides = _overrides(output_name, steps, resolution, seed, precision)
        run = _computable(config.run(dataset, in_graph=True, **overrides), precision)
        tokenize = None
        if clip is not None:
            from ..host import tokenizer

            tokenize = tokenizer(clip)
        told = report(run, dataset, tokenize)
        return io.NodeOutput(run.settings, told, ui=report_shown(told))


def _overrides(output_name: str, steps: int, resolution: int, seed: int, precision: str) -> dict[str, object]:
    """The inputs that stand above the configuration."""
    wanted = {
        "output_name": output_name or None,
        "steps": steps or None,
        "resolution": (resolution, resolution) if resolution else None,
        "seed": seed if seed >= 0 else None,
        "precision": None if precision == "auto" else precision,
    }
    return {name: value for name, value in wanted.items() if value is not None}


def _computable(run: KohyaRun, precision: str) -> KohyaRun:
    """fp16 becomes bf16 where the machine does not compute in fp16."""
    from ..host import training_device

    if precision != "auto" or run.settings.precision != "fp16" or training_device().type != "cpu":
        return run
    return replace(run, settings=replace(run.settings, precision="bf16"))


NODES = [LoadKohyaConfig]
