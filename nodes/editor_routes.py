"""Puts the routes of the graph editor's extension on the host's server; without a server nothing happens."""

from __future__ import annotations

from server import PromptServer

from .folders import work_folder
from .sweep_files import SweepFiles
from .sweep_routes import add_sweep_routes

if (server := getattr(PromptServer, "instance", None)) is not None:
    add_sweep_routes(server.routes, lambda: SweepFiles(work_folder()))
