"""Puts the routes of the graph editor's extension on the host's server; without a server nothing happens."""

from __future__ import annotations

from server import PromptServer

from ..trainer.dataset.open_datasets import OpenDatasets
from .dataset_routes import add_dataset_routes
from .folders import work_folder
from .lora_routes import add_lora_routes
from .sweep_files import SweepFiles
from .sweep_routes import add_sweep_routes

DATASETS = OpenDatasets()

if (server := getattr(PromptServer, "instance", None)) is not None:
    add_sweep_routes(server.routes, lambda: SweepFiles(work_folder()))
    add_dataset_routes(server.routes, DATASETS)
    add_lora_routes(server.routes)
