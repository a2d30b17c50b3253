"""Puts the routes of the graph editor's extension on the host's server; without a server nothing happens."""

from __future__ import annotations

from server import PromptServer

from .dataset.routes import DATASETS, add_dataset_routes
from .folders import work_folder
from .lora.routes import add_lora_routes
from .sweep.files import SweepFiles
from .sweep.routes import add_sweep_routes
from .training.routes import add_run_routes
from .training.runs import RUNS

if (server := getattr(PromptServer, "instance", None)) is not None:
    add_sweep_routes(server.routes, lambda: SweepFiles(work_folder()))
    add_dataset_routes(server.routes, DATASETS)
    add_lora_routes(server.routes)
    add_run_routes(server.routes, RUNS)
