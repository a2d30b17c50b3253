"""The one registry of this host's training runs."""

from __future__ import annotations

from ...trainer.runs.registry import Runs
from ..folders import work_folder

RUNS = Runs(lambda: work_folder() / "runs")
