"""The node that names one parameter and its values; chained, it spans a grid."""

from __future__ import annotations

from pathlib import Path

import comfy.samplers
import folder_paths
from comfy_api.latest import io

from ..figures import Axis, check_distinct, parse_values
from ..trainer.errors import LoraFileError
from ..trainer.lora_file import read_metadata
from .folders import unknown_yet
from .shot import size_of
from .sockets import AxesSocket

PARAMETERS = {
    "CFG scale": "cfg",
    "sampling steps": "steps",
    "LoRA weight": "lora_weight",
    "seed": "seed",
    "LoRA weight, U-Net": "lora_weight_model",
    "LoRA weight, text encoders": "lora_weight_clip",
    "LoRA file": "lora_file",
    "LoRA file: all epochs of a run": "lora_epochs",
    "checkpoint": "checkpoint",
    "prompt": "prompt",
    "prompt: search and replace": "prompt_replace",
    "negative prompt": "negative",
    "sampler": "sampler",
    "scheduler": "scheduler",
    "denoise": "denoise",
    "size": "size",
    "width": "width",
    "height": "height",
}
_FOLDERS = {"lora_file": "loras", "lora_epochs": "loras", "checkpoint": "checkpoints"}


class SweepAxis(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MjesecSweepAxis",
            display_name="Sweep Axis",
            category="Mjesec/sweep",
            description="One parameter and its values. Chain several for a grid: the first gives the columns, the "
            "second the rows.",
            search_aliases=["xy plot", "xyz grid", "parameter sweep"],
            inputs=[
                AxesSocket.Input("axes", optional=True, tooltip="Axes that come before this one."),
                io.Combo.Input("parameter", options=list(PARAMETERS), tooltip="What this axis varies."),
                io.String.Input(
                    "values",
                    default="1, 4, 7",
                    multiline=True,
                    tooltip="Values with commas, or a range: 1-10(+3) steps by 3, 0-1[5] takes 5 values. Texts with "
                    'commas: one a line, or in "quotes". Search and replace: what to look for, then its replacements. '
                    "Size: 512x768. All epochs of a run: the name of its LoRA file.",
                ),
            ],
            outputs=[AxesSocket.Output("axes", tooltip="For Sweep, or for one more Sweep Axis.")],
        )

    @classmethod
    def validate_inputs(cls, parameter: str | None, values: str | None) -> bool | str:
        if parameter not in (None, *PARAMETERS):
            return _unknown(parameter)
        if parameter is None or values is None:
            return True
        try:
            # the files of a run may be written by a node before this one
            if PARAMETERS[parameter] != "lora_epochs":
                _axis(PARAMETERS[parameter], values)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, parameter: str | None, values: str | None, axes: object = None) -> tuple[object, ...]:
        if parameter is None or values is None:
            return parameter, values, unknown_yet()
        kind = _FOLDERS.get(PARAMETERS.get(parameter, ""))
        if kind is None and "embedding:" in str(values):
            from .fingerprint import embeddings_stamp

            return parameter, values, embeddings_stamp()
        if kind is None:
            return parameter, values
        paths = (folder_paths.get_full_path(kind, name) for name in folder_paths.get_filename_list(kind))
        return parameter, values, *((path, Path(path).stat().st_mtime_ns) for path in paths if path)

    @classmethod
    def execute(cls, parameter: str, values: str, axes: tuple[Axis, ...] = ()) -> io.NodeOutput:
        if parameter not in PARAMETERS:
            raise ValueError(_unknown(parameter))
        chained = (*axes, _axis(PARAMETERS[parameter], values))
        check_distinct(chained)
        return io.NodeOutput(chained)


def _unknown(parameter: str | None) -> str:
    return f"The parameter '{parameter}' cannot be varied; choose one of {', '.join(PARAMETERS)}."


def _axis(parameter: str, values: str) -> Axis:
    if parameter == "lora_epochs":
        return _epochs(values)
    axis = Axis.parse(parameter, values, choices=_choices(parameter))
    if parameter == "size":
        for value in axis.values:
            size_of(str(value))
    return axis


def _choices(parameter: str) -> list[str] | None:
    if parameter in _FOLDERS:
        return folder_paths.get_filename_list(_FOLDERS[parameter])
    own = {"sampler": comfy.samplers.KSampler.SAMPLERS, "scheduler": comfy.samplers.KSampler.SCHEDULERS}
    return list(own[parameter]) if parameter in own else None


def _epochs(text: str) -> Axis:
    """The files that a run left at its epochs' ends and its last one, in order, named by their epochs."""
    (name, *more) = parse_values("prompt", text.strip())
    if more:
        raise ValueError(f'"{text.strip()}" are several runs; give the LoRA file of one.')
    stem = str(name).removesuffix(".safetensors")
    files = sorted(file for file in folder_paths.get_filename_list("loras") if _epoch_of(file, stem) is not None)
    if not files:
        raise LoraFileError(f"There is no LoRA of a run '{name}'; give the name of its file as the host lists it.")
    # the file of the whole run bears no number and is the last
    files.sort(key=lambda file: (_epoch_of(file, stem) == "", file))
    names = [str(int(epoch)) if (epoch := _epoch_of(file, stem)) else _last_epoch(file) for file in files]
    return Axis("lora_file", tuple(files), "Epoch").with_label("Epoch", names)


def _epoch_of(file: str, stem: str) -> str | None:
    """The digits of an epoch's file, "" for the run's own file, None for a file of another run."""
    rest = file.replace("\\", "/").removesuffix(".safetensors").removeprefix(stem)
    if rest == "" and file.replace("\\", "/") == f"{stem}.safetensors":
        return ""
    digits = rest.removeprefix("-")
    return digits if rest.startswith("-") and len(digits) == 6 and digits.isdecimal() else None


def _last_epoch(file: str) -> str:
    path = folder_paths.get_full_path("loras", file)
    return read_metadata(Path(path)).get("ss_epoch", "last") if path else "last"


NODES = [SweepAxis]
