"""The node that names one parameter and its values; chained, it spans a grid."""

from __future__ import annotations

import re
from pathlib import Path

import comfy.samplers
import folder_paths
from comfy_api.latest import io

from ...figures import Axis, check_distinct, parse_values
from ...figures.values import quoted
from ...trainer.errors import LoraFileError
from ...trainer.lora.file import read_metadata
from ..folders import unknown_yet
from ..reports import report_shown, some
from ..sockets import AxesSocket
from .shot import size_of

PARAMETERS = {
    "CFG scale": "cfg",
    "sampling steps": "steps",
    "LoRA weight": "lora_weight",
    "seed": "seed",
    "LoRA weight, U-Net": "lora_weight_model",
    "LoRA weight, text encoders": "lora_weight_clip",
    "LoRA file": "lora_file",
    "LoRA file: all epochs of a run": "lora_epochs",
    "LoRA file: all steps of a run": "lora_steps",
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
_FOLDERS = {"lora_file": "loras", "lora_epochs": "loras", "lora_steps": "loras", "checkpoint": "checkpoints"}
_MOST_TOLD = 24
# what stands behind the name of a run in the names of the files that it leaves on its way
_EPOCH, _STEP = r"-(?P<epoch>\d{6})", r"-step(?P<step>\d{8})"


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
            has_intermediate_output=True,
            inputs=[
                AxesSocket.Input("axes", optional=True, tooltip="Axes that come before this one."),
                io.Combo.Input("parameter", options=list(PARAMETERS), tooltip="What this axis varies."),
                io.String.Input(
                    "values",
                    default="1, 4, 7",
                    multiline=True,
                    tooltip="Values with commas, or a range: 1-10(+3) steps by 3, 0-1[5] takes 5 values. Texts with "
                    'commas: one a line, or in "quotes". Search and replace: what to look for, then its replacements. '
                    "Size: 512x768. All epochs or steps of a run: the name of its LoRA file.",
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
            if PARAMETERS[parameter] not in _OF_A_RUN:
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
        axis = _axis(PARAMETERS[parameter], values)
        chained = (*axes, axis)
        check_distinct(chained)
        return io.NodeOutput(chained, ui=report_shown(_told_values(axis)))


def _told_values(axis: Axis) -> str:
    """How the text was read: what looks like one prompt with commas may be several."""
    pairs = zip(axis.texts, axis.values, strict=True)
    shown = [quoted(text) if isinstance(value, str) else text for text, value in pairs]
    return f"{len(shown)} {'value' if len(shown) == 1 else 'values'}: {some(shown, most=_MOST_TOLD)}"


def _unknown(parameter: str | None) -> str:
    return f"The parameter '{parameter}' cannot be varied; choose one of {', '.join(PARAMETERS)}."


def _axis(parameter: str, values: str) -> Axis:
    if parameter in _OF_A_RUN:
        return _OF_A_RUN[parameter](values)
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
    files = {file: place["epoch"] for file, place in _files_of_run(text, _EPOCH).items()}
    # the file of the whole run bears no number and is the last
    ordered = sorted(files, key=lambda file: (files[file] is None, file))
    names = [str(int(files[file] or 0)) if files[file] else _told(file, "ss_epoch") or "last" for file in ordered]
    return Axis("lora_file", tuple(ordered), "Epoch").with_label("Epoch", names)


def _steps(text: str) -> Axis:
    """All files that a run left on its way and its last one, in order, named by their optimizer steps."""
    found = _files_of_run(text, f"{_EPOCH}|{_STEP}")
    told = {file: place["step"] or _told(file, "ss_steps") for file, place in found.items()}
    if missing := [file for file, step in told.items() if not step.isdecimal()]:
        raise LoraFileError(f"The LoRA '{missing[0]}' does not tell after how many steps it was saved; use LoRA file.")
    steps = {file: int(step) for file, step in told.items()}
    # an epoch's end may be the run's: one file of a step is enough, the shortest name being the run's own
    of_step = {steps[file]: file for file in sorted(found, key=len, reverse=True)}
    ordered = sorted(of_step)
    files, names = tuple(of_step[step] for step in ordered), [str(step) for step in ordered]
    return Axis("lora_file", files, "Step").with_label("Step", names)


def _files_of_run(text: str, ending: str) -> dict[str, re.Match[str]]:
    """The files of one run as the host lists them: its own, and those whose names end as the pattern says.

    Raises:
        ValueError: several runs are named.
        LoraFileError: there is no file of such a run.
    """
    (name, *more) = parse_values("prompt", text.strip())
    if more:
        raise ValueError(f'"{text.strip()}" are several runs; give the LoRA file of one.')
    of_run = re.compile(
        re.escape(str(name).removesuffix(".safetensors").replace("\\", "/")) + rf"(?:{ending})?\.safetensors"
    )
    matches = {file: of_run.fullmatch(file.replace("\\", "/")) for file in folder_paths.get_filename_list("loras")}
    if found := {file: match for file, match in matches.items() if match}:
        return found
    raise LoraFileError(f"There is no LoRA of a run '{name}'; give the name of its file as the host lists it.")


def _told(file: str, entry: str) -> str:
    """What the metadata of a LoRA say; empty where they say nothing of it."""
    path = folder_paths.get_full_path("loras", file)
    return read_metadata(Path(path)).get(entry, "") if path else ""


_OF_A_RUN = {"lora_epochs": _epochs, "lora_steps": _steps}

NODES = [SweepAxis]
