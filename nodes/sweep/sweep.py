"""The node that makes one image for every combination of its axes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import folder_paths
from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker

from ...figures import Axis, count
from ..folders import unknown_yet, work_folder
from ..progress import NodeWatcher
from ..reports import report_shown
from ..sampling_inputs import sampling_inputs, size_inputs
from ..sockets import AxesSocket, GridSocket, LoraModel
from .grid import Attempts, Grid, sweep_shown

if TYPE_CHECKING:
    from .shot import Shot

_NO_FILE = "(lora input)"
MODES = ("exact", "fast", "dry run")
_MOST_COUNTED = 10_000  # a dry run looks at each cell, up to so many


class Sweep(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MjesecSweep",
            display_name="Sweep",
            category="Mjesec/sweep",
            description="One image for every combination of the axes, each exactly what a plain KSampler graph gives. "
            "Cells go to disk as they are done: a sweep that was interrupted, extended or changed in one value "
            "computes only what is missing.",
            search_aliases=["xy plot", "xyz grid", "compare", "parameter sweep"],
            has_intermediate_output=True,
            not_idempotent=True,
            inputs=[
                io.Model.Input("model", tooltip="Without the LoRA; the sweep puts it on at each weight."),
                io.Clip.Input("clip", tooltip="Without the LoRA."),
                io.Vae.Input("vae", tooltip="Decodes the images."),
                AxesSocket.Input("axes", optional=True, tooltip="What varies; nothing connected makes one image."),
                LoraModel.Input("lora", optional=True, tooltip="From Train SDXL LoRA. It goes before the file."),
                io.String.Input("prompt", multiline=True, default="moon", tooltip="What the images show."),
                io.String.Input("negative", multiline=True, default="", tooltip="What they must not show."),
                *size_inputs("of each image in pixels; time and memory grow with it"),
                *sampling_inputs("The initial noise, the same in every cell unless an axis varies it."),
                io.Float.Input(
                    "lora_weight",
                    default=1.0,
                    min=-100.0,
                    max=100.0,
                    step=0.05,
                    tooltip="Strength of the LoRA on U-Net and text encoders: 0 is the base, 1 as trained.",
                ),
                io.Combo.Input(
                    "lora_name",
                    options=[_NO_FILE, *folder_paths.get_filename_list("loras")],
                    default=_NO_FILE,
                    tooltip="A LoRA file; used where nothing is connected to lora.",
                    advanced=True,
                ),
                *_more_inputs(),
            ],
            outputs=[
                GridSocket.Output("grid", tooltip="For Figure."),
                io.String.Output("report", tooltip="Cells, seconds, what was on disk already, failures, warnings."),
                io.String.Output("manifest", tooltip="The JSON file that tells every cell's parameters and hashes."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
        )

    @classmethod
    def fingerprint_inputs(cls, lora_name: str | None = _NO_FILE, **inputs: object) -> tuple[object, ...]:
        from .fingerprint import embeddings_stamp

        if lora_name is None:
            return (unknown_yet(),)
        path = None if lora_name == _NO_FILE else folder_paths.get_full_path("loras", lora_name)
        texts = (inputs.get("prompt", ""), inputs.get("negative", ""))
        # a text that comes by wire is not known here and may call any embedding
        embeddings = embeddings_stamp() if any(text is None or "embedding:" in str(text) for text in texts) else ""
        # a file may be replaced under its name; and failed cells are tried again at the next queueing
        return (Path(path).stat().st_mtime_ns if path else None, embeddings, Attempts.unfinished)

    @classmethod
    def execute(
        cls, model: Any, clip: Any, vae: Any, axes: tuple[Axis, ...] = (), mode: str = "exact",
        most_cells: int = 400, **inputs: Any,
    ) -> io.NodeOutput:  # fmt: skip
        from .batching import run_fast
        from .cell_store import CellStore
        from .engine import Sweeping, write_manifest
        from .sampling import Studio
        from .shot import half_effects

        subject, shot, wires = _subject_and_shot(model, clip, vae, axes, inputs)
        dry = mode == "dry run"
        refused = _too_many(axes, most_cells)
        if refused and not dry:
            raise ValueError(refused)
        if refused and count(axes) > _MOST_COUNTED:
            return _dry(refused)
        folder = work_folder()
        watcher = NodeWatcher(cls.hidden.unique_id)
        with closing(Studio(subject)) as studio:
            of_mode = partial(
                Sweeping, tuple(axes), shot, studio, CellStore(folder / "cells"), watcher=watcher, graph_of=_graphs(cls)
            )
            sweeping = of_mode(mode="exact" if dry else mode)
            for line in half_effects(shot, axes, wires):
                sweeping.note(line)
            before = sweeping.look().report()
            watcher.say(before)
            watcher.show(before)
            if dry:
                in_batches = f"In fast mode: {of_mode(mode='fast').look().brief()}"
                return _dry(before, in_batches, *sweeping.notes, *filter(None, (refused,)))
            grid = sweeping.run(run_fast)
        report = _report(grid, before)
        if grid.failed():
            Attempts.unfinished += 1
        manifest = write_manifest(grid, folder / "sweeps")
        grid = replace(grid, name=manifest.stem)
        shown = {**report_shown(report), **sweep_shown(grid)}
        return io.NodeOutput(grid, report, str(manifest), ui=shown)


def _dry(*lines: str) -> io.NodeOutput:
    text = "\n".join(["Dry run: nothing was computed.", *lines])
    return io.NodeOutput(ExecutionBlocker(None), text, ExecutionBlocker(None), ui=report_shown(text))


def _graphs(cls: type[io.ComfyNode]) -> Callable[[Shot], dict[str, Any] | None]:
    """What gives a cell's own graph; nothing where the host does not tell the graph that runs."""
    prompt, own = cls.hidden.prompt, str(cls.hidden.unique_id)
    if not prompt or own not in prompt:
        return lambda shot: None
    from .cell_graph import graph_of_cell

    return lambda shot: graph_of_cell(prompt, own, shot)


def _more_inputs() -> list[io.Input]:
    """What not every sweep needs; all of them may be left out."""
    return [
        io.Float.Input(
            "denoise",
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.01,
            optional=True,
            tooltip="How much of the latent is made anew: 1 all of it, less keeps more of it.",
        ),
        io.Combo.Input(
            "mode",
            options=list(MODES),
            default="exact",
            optional=True,
            tooltip="exact: each cell is ComfyUI's KSampler result. fast: cells are sampled in batches, with the "
            "difference measured on one of them. dry run: only tells what it would take.",
        ),
        io.Int.Input(
            "most_cells",
            default=400,
            min=1,
            max=1_000_000,
            optional=True,
            tooltip="More cells than this are refused, so that a slip of the pen costs nothing.",
            advanced=True,
        ),
        io.Conditioning.Input(
            "positive_conditioning", optional=True, tooltip="Takes the prompt's place, e.g. with a ControlNet on it."
        ),
        io.Conditioning.Input("negative_conditioning", optional=True, tooltip="Takes the negative prompt's place."),
        io.Latent.Input(
            "latent", optional=True, tooltip="To start from (with a noise mask: to fill in); its size is every cell's."
        ),
    ]


def _subject_and_shot(
    model: Any, clip: Any, vae: Any, axes: tuple[Axis, ...], inputs: dict[str, Any]
) -> tuple[Any, Any, Any]:
    from .sampling import Subject
    from .shot import Shot, Wires, check_axes

    lora, name = inputs.pop("lora", None), inputs.pop("lora_name", _NO_FILE)
    positive, negative = inputs.pop("positive_conditioning", None), inputs.pop("negative_conditioning", None)
    latent, weight = inputs.pop("latent", None), inputs.pop("lora_weight")
    file = name if lora is None and name != _NO_FILE else ""
    # without a LoRA the records tell of no weight
    if lora is None and not file and all(axis.parameter != "lora_file" for axis in axes):
        weight = 0.0
    if latent is not None:
        inputs |= _size_of_latent(latent)
    shot = Shot(**{"denoise": 1.0, **inputs}, lora_weight_model=weight, lora_weight_clip=weight, lora_file=file)
    wires = Wires(lora is not None, positive is not None, negative is not None, latent is not None)
    check_axes(shot, axes, wires)
    return Subject(model, clip, vae, lora, positive, negative, latent), shot, wires


def _size_of_latent(latent: dict[str, Any]) -> dict[str, int]:
    samples = latent["samples"]
    if samples.ndim != 4 or samples.shape[0] != 1:
        raise ValueError(
            f"The latent holds {samples.shape[0]} images in {samples.ndim} dimensions; a sweep starts from one image."
        )
    scale = latent.get("downscale_ratio_spacial") or 8
    return {"width": samples.shape[-1] * scale, "height": samples.shape[-2] * scale}


def _too_many(axes: tuple[Axis, ...], most: int) -> str:
    """Why so many cells are refused; empty where they are not. Nothing is made of them to count them."""
    number = count(axes)
    if number <= most:
        return ""
    return (
        f"The axes make {number} cells, more than the {most} that most_cells allows; raise most_cells or take "
        "fewer values."
    )


def _report(grid: Grid, before: str) -> str:
    made = [result for result in grid.results if not result.error and result.source == "computed"]
    kept = sum(result.source == "cached" for result in grid.results)
    # not the sum of the cells' seconds: first steps that they share were computed once
    seconds = grid.about["seconds"]["sampling_and_decoding"]  # type: ignore[index]
    lines = [f"{len(grid.results)} cells: {len(made)} computed in {seconds:.1f} s, {kept} from disk."]
    if failed := grid.failed():
        lines += [f"{len(failed)} failed:", *grid.failures()]
    lines += [str(note) for note in grid.about["notes"]]  # type: ignore[attr-defined]
    return "\n".join([*lines, "", "Before it ran:", before])


NODES = [Sweep]
