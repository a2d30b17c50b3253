"""The node that trains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import io

from ...trainer.dataset.samples import Dataset
from ...trainer.settings.training import TrainSettings
from ..folders import loras_folder
from ..given_files import GivenFiles
from ..graph_metadata import origin_of
from ..reports import report_shown
from ..sockets import DatasetSocket, LoraModel, LossMap, TrainingSamplesSocket, TrainSettingsSocket

if TYPE_CHECKING:
    from ...trainer.runs.job import Result
    from .samples import TrainingSamples

CATEGORY = "Mjesec/training"
# ComfyUI keeps a node's results: only a changed fingerprint makes it go on with a run that the user stopped early, or
# train one once more whose file the user deleted
_stopped_runs = 0
_loras = GivenFiles()


class TrainLora(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MjesecTrainLora",
            display_name="Train SDXL LoRA",
            category=CATEGORY,
            description="Trains a LoRA on the MODEL and CLIP as the graph made them, in process. A run that was "
            "interrupted goes on when it is queued again; a run that is finished already is used as it is.",
            search_aliases=["lora training", "fine-tune", "kohya", "dreambooth"],
            is_output_node=True,
            not_idempotent=True,
            inputs=[
                io.Model.Input("model", tooltip="SDXL. Whatever is merged or patched into it is what is trained on."),
                io.Clip.Input("clip", tooltip="SDXL's two text encoders, of the same checkpoint."),
                io.Vae.Input("vae", tooltip="SDXL's VAE; it turns the images into latents, once."),
                DatasetSocket.Input("dataset", tooltip="Images and captions."),
                TrainSettingsSocket.Input("settings", tooltip="All numbers of the run."),
                TrainingSamplesSocket.Input(
                    "samples",
                    optional=True,
                    tooltip="Images that are drawn on the way with the LoRA as it then is; left open, none are.",
                ),
            ],
            outputs=[
                LoraModel.Output(
                    "lora", tooltip="The trained LoRA, for Load LoRA, Sweep or ComfyUI's LoraModelLoader."
                ),
                io.AnyType.Output("lora_name", tooltip="The file's name as ComfyUI's Load LoRA lists it."),
                LossMap.Output("loss_map", tooltip="The loss of every step and the held-out losses, for Loss Chart."),
                io.String.Output("report", tooltip="What was trained, with the numbers that took effect."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def fingerprint_inputs(cls, **inputs: object) -> tuple[int, int]:
        return _stopped_runs, _loras.fingerprint()

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        dataset: Dataset,
        settings: TrainSettings,
        samples: TrainingSamples | None = None,
    ) -> io.NodeOutput:
        # the networks' libraries take seconds to import: only a run pays for them
        from comfy.model_management import InterruptProcessingException

        from ...trainer.device import no_spill
        from ...trainer.errors import Cancelled
        from ...trainer.lora.file import read_lora
        from ...trainer.runs.outputs import folder_name, run_of
        from ...trainer.runs.run import train
        from .. import host
        from .job import make_job
        from .leaving import saved_when_the_host_ends

        host.check_model(model)
        host.check_clip(clip, model)
        host.check_vae(vae)
        with saved_when_the_host_ends():
            try:
                with torch.inference_mode(False), no_spill(host.training_device()):
                    job = make_job(model, clip, vae, dataset, settings, samples, origin_of(cls.hidden))
                    result = train(job)
                    lora = read_lora(result.path)
            except Cancelled as stop:
                # for the host it is no error either: what comes after this node has nothing to work with
                raise InterruptProcessingException from stop
            except BaseException as error:
                host.forget_frames(error)
                raise
            finally:
                host.give_back()
        if result.stopped:
            global _stopped_runs
            _stopped_runs += 1
        _loras.add([result.path])
        name = host.lora_file_name(result.path, loras_folder())
        shown = {**report_shown(result.report), "mjesec_lora": [name]}
        if job.sampler is not None:
            shown["images"] = job.sampler.latest
        if (run := run_of(result.path)) is not None:
            shown["mjesec_run"] = [folder_name(run)]
        return io.NodeOutput(lora, name, _loss_map(result, settings.loss.measure), result.report, ui=shown)


def _loss_map(result: Result, measure: str) -> dict[str, Any]:
    """ComfyUI's LOSS_MAP; its own nodes ignore the pairs (step, held-out loss) and what the loss is."""
    return {"loss": list(result.losses), "validation": [list(pair) for pair in result.validation], "kind": measure}


NODES = [TrainLora]
