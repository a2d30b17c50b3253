"""The node that trains, and the chart of its loss."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io, ui

from ..figures import loss_chart
from ..trainer.samples import Dataset
from ..trainer.settings import TrainSettings
from .folders import loras_folder, work_folder
from .images import to_tensor
from .progress import NodeWatcher
from .sockets import DatasetSocket, LoraModel, LossMap, TrainSettingsSocket

CATEGORY = "Mjesec/training"


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
            ],
            outputs=[
                LoraModel.Output(
                    "lora", tooltip="The trained LoRA, for Load LoRA, Sweep or ComfyUI's LoraModelLoader."
                ),
                io.AnyType.Output("lora_name", tooltip="The file's name as ComfyUI's Load LoRA lists it."),
                LossMap.Output("loss_map", tooltip="The loss of every step, for Loss Chart."),
                io.String.Output("report", tooltip="What was trained, with the numbers that took effect."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model: Any, clip: Any, vae: Any, dataset: Dataset, settings: TrainSettings) -> io.NodeOutput:
        # the networks' libraries take seconds to import: only a run pays for them
        from ..trainer.lora_file import read_lora
        from ..trainer.run import train
        from . import host

        watcher = NodeWatcher(cls.hidden.unique_id)
        host.check_model(model)
        host.check_clip(clip, model)
        host.check_vae(vae)
        try:
            with torch.inference_mode(False):
                result = train(_job(model, clip, vae, dataset, settings, watcher))
                lora = read_lora(result.path)
        except BaseException as error:
            host.forget_frames(error)
            raise
        finally:
            host.give_back()
        name = host.lora_file_name(result.path, loras_folder())
        shown = ui.PreviewText(result.report)
        return io.NodeOutput(lora, name, {"loss": list(result.losses)}, result.report, ui=shown)


def _job(model: Any, clip: Any, vae: Any, dataset: Dataset, settings: TrainSettings, watcher: NodeWatcher) -> Any:
    from ..trainer.identity import weights_fingerprint
    from ..trainer.run import Base, Folders, Job
    from . import host

    device = host.training_device()

    def parts() -> Any:
        host.make_room(device)
        return host.build_parts(model, clip, settings, device)

    first, second = host.text_weights(clip)
    weights = {
        **{f"unet.{name}": tensor for name, tensor in host.unet_weights(model).items()},
        **{f"te1.{name}": tensor for name, tensor in first.items()},
        **{f"te2.{name}": tensor for name, tensor in second.items()},
    }
    total, done = sum(t.nbytes for t in weights.values()), 0

    def on_bytes(count: int) -> None:
        nonlocal done
        done += count
        watcher.stage("fingerprint of the base", done // 2**20, max(total // 2**20, 1))

    base = Base(
        host.model_name(model), weights_fingerprint(weights, on_bytes), weights_fingerprint(host.vae_weights(vae))
    )
    return Job(
        dataset=dataset,
        settings=settings,
        base=base,
        folders=Folders(loras_folder(), work_folder()),
        parts=parts,
        tokenize=host.tokenizer(clip),
        encode=host.encoder(vae),
        device=device,
        watcher=watcher,
    )


class LossChart(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MjesecLossChart",
            display_name="Loss Chart",
            category=CATEGORY,
            description="The loss of every step with a running mean; also of ComfyUI's own trainer.",
            search_aliases=["loss graph", "training curve"],
            inputs=[
                LossMap.Input("loss_map", tooltip="From Train SDXL LoRA or Train LoRA."),
                io.String.Input("title", default="", tooltip="Stands above the chart; empty for none."),
                io.Int.Input("width", default=960, min=320, max=4096, tooltip="Width of the chart in pixels."),
                io.Int.Input("height", default=540, min=240, max=4096, tooltip="Height of the chart in pixels."),
                io.Int.Input(
                    "smoothing",
                    default=0,
                    min=0,
                    max=100_000,
                    tooltip="Steps of the running mean; 0 chooses by length.",
                ),
                io.Combo.Input("theme", options=["light", "dark"], default="light", tooltip="Light for print."),
            ],
            outputs=[io.Image.Output("chart", tooltip="The chart as an image.")],
        )

    @classmethod
    def execute(
        cls, loss_map: dict[str, list[float]], title: str, width: int, height: int, smoothing: int, theme: str
    ) -> io.NodeOutput:
        chart = loss_chart(
            loss_map["loss"], title=title, smoothing=smoothing or None, width_px=width, height_px=height, theme=theme
        )
        image = to_tensor(chart)
        return io.NodeOutput(image, ui=ui.PreviewImage(image, cls=cls))


NODES = [TrainLora, LossChart]
