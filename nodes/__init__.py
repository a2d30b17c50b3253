"""The plugin's nodes: one list is its table of contents."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import editor_routes  # noqa: F401 - routes are added when it is imported
from .dataset import scene, sources
from .figure import figure, grid_images, grid_of_images, grid_views, loss_by_weight, measure, nearest
from .lora import node as lora
from .sweep import axis, strip, sweep
from .training import (
    adapter_options,
    checkpoint_options,
    data_options,
    kohya,
    loss_chart,
    memory_options,
    options,
    samples,
    settings,
    train,
)

NODES: list[type[io.ComfyNode]] = [
    *sources.NODES,
    *settings.NODES,
    *kohya.NODES,
    *options.NODES,
    *adapter_options.NODES,
    *data_options.NODES,
    *checkpoint_options.NODES,
    *memory_options.NODES,
    *samples.NODES,
    *train.NODES,
    *loss_chart.NODES,
    *lora.NODES,
    *axis.NODES,
    *sweep.NODES,
    *strip.NODES,
    *scene.NODES,
    *grid_of_images.NODES,
    *grid_views.NODES,
    *grid_images.NODES,
    *measure.NODES,
    *nearest.NODES,
    *loss_by_weight.NODES,
    *figure.NODES,
]


class MjesecExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
