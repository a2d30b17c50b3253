"""The plugin's nodes: one list is its table of contents."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import (
    adapter_options,
    checkpoint_options,
    data_options,
    dataset,
    editor_routes,  # noqa: F401 - as live
    figure,
    grid_images,
    grid_of_images,
    grid_views,
    kohya,
    live,  # noqa: F401 - its routes are added when it is imported
    lora,
    loss_by_weight,
    loss_chart,
    measure,
    memory_options,
    nearest,
    options,
    scene,
    settings,
    strip,
    sweep,
    sweep_axis,
    train,
    training_samples,
)

NODES: list[type[io.ComfyNode]] = [
    *dataset.NODES,
    *settings.NODES,
    *kohya.NODES,
    *options.NODES,
    *adapter_options.NODES,
    *data_options.NODES,
    *checkpoint_options.NODES,
    *memory_options.NODES,
    *training_samples.NODES,
    *train.NODES,
    *loss_chart.NODES,
    *lora.NODES,
    *sweep_axis.NODES,
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
