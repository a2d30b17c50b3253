"""The run behind a training node: the host's weights and folders, and everybody who watches and controls it.

Imported only when something is trained: the networks' libraries take seconds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import psutil
import torch
from comfy_execution.utils import get_executing_context
from server import PromptServer

from ...trainer.dataset.samples import Dataset
from ...trainer.dataset.thumbnails import thumbnails
from ...trainer.lora.metadata import THUMBNAILS_KEY
from ...trainer.runs.control import Control
from ...trainer.runs.identity import schedule_mark, weights_fingerprint
from ...trainer.runs.job import Base, Folders, Job
from ...trainer.runs.registry import LiveRun
from ...trainer.sdxl.parts import Parts
from ...trainer.settings.training import TrainSettings
from .. import host
from ..folders import loras_folder, work_folder
from ..graph_metadata import Origin
from ..progress import RunWatcher
from .live_sampler import LiveSampler
from .runs import RUNS
from .samples import TrainingSamples

EVENT = "mjesec.run"


def make_job(
    model: Any,
    clip: Any,
    vae: Any,
    dataset: Dataset,
    settings: TrainSettings,
    samples: TrainingSamples | None,
    origin: Origin,
) -> Job:
    """A run on the MODEL and CLIP of a graph, shown on the node of ``origin`` and controlled through the routes."""
    device = host.training_device()
    control = Control(samples=samples is not None)
    live = RUNS.begin(LiveRun(control, _send, lambda: _memory_mb(device)))
    watcher = RunWatcher(origin.node_id, live)
    sampler = None
    if samples is not None:
        sampler = LiveSampler(model, clip, vae, samples, work_folder() / "samples", watcher)

    def parts() -> Parts:
        host.make_room(device)
        return host.build_parts(model, clip, settings, device)

    def on_record(record: Mapping[str, object]) -> None:
        if record["event"] == "paused":
            host.give_back()
        live.hear(record)

    def keepsakes() -> dict[str, str]:
        if not settings.saving.embed:
            return {}
        return {**origin.graph, THUMBNAILS_KEY: json.dumps(thumbnails(dataset))}

    return Job(
        dataset=dataset,
        settings=settings,
        base=_base(model, clip, vae, watcher),
        folders=Folders(loras_folder(), work_folder()),
        parts=parts,
        tokenize=host.tokenizer(clip),
        encode=host.encoder(vae),
        device=device,
        watcher=watcher,
        control=control,
        on_record=on_record,
        origin=_told(origin),
        sampler=sampler,
        keepsakes=keepsakes,
        free_bytes=lambda: host.free_bytes(device),
    )


def _send(data: dict[str, Any]) -> None:
    PromptServer.instance.send_sync(EVENT, data)


def _memory_mb(device: torch.device) -> float:
    """What the host's process holds: on the GPU where it trains there, else resident memory."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device) / 2**20
    return psutil.Process().memory_info().rss / 2**20


def _told(origin: Origin) -> dict[str, str]:
    context = get_executing_context()
    prompt_id = None if context is None else context.prompt_id
    known = {"node_id": origin.node_id, "prompt_id": prompt_id, "workflow_id": origin.workflow_id}
    return {name: value for name, value in known.items() if value is not None}


def _base(model: Any, clip: Any, vae: Any, watcher: RunWatcher) -> Base:
    first, second = host.text_weights(clip)
    weights = {
        **{f"unet.{name}": tensor for name, tensor in host.unet_weights(model).items()},
        **{f"te1.{name}": tensor for name, tensor in first.items()},
        **{f"te2.{name}": tensor for name, tensor in second.items()},
    }
    total, done = sum(t.nbytes for t in weights.values()), 0

    def on_bytes(count: int) -> None:
        nonlocal done
        before, done = done // 2**20, done + count
        if done // 2**20 != before or done == total:
            watcher.stage("fingerprint of the base", done // 2**20, max(total // 2**20, 1))

    file = host.model_file(model)
    mark = schedule_mark(host.noise_levels(model), host.prediction_of(model))
    return Base(
        "unknown" if file is None else file.name,
        weights_fingerprint(weights, on_bytes) + mark,
        weights_fingerprint(host.vae_weights(vae)),
        file,
    )
