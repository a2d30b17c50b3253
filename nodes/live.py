"""The one registry of this host's training runs, and its routes on the host's server."""

from __future__ import annotations

from server import PromptServer

from ..trainer.runs.registry import Runs
from .folders import work_folder
from .run_routes import add_run_routes

RUNS = Runs(lambda: work_folder() / "runs")

if (server := getattr(PromptServer, "instance", None)) is not None:
    add_run_routes(server.routes, RUNS)
