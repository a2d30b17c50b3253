"""The graph as the host's own files carry it, so that a file of ours that is dropped on the editor opens it too."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def graph_metadata(prompt: Mapping[str, Mapping[str, Any]] | None, extra: Mapping[str, Any] | None) -> dict[str, str]:
    """``prompt`` and whatever the editor sent along (``workflow``), as JSON; empty where a node was called without."""
    out = {} if prompt is None else {"prompt": json.dumps({name: _as_queued(node) for name, node in prompt.items()})}
    return {**out, **{key: json.dumps(value) for key, value in (extra or {}).items()}}


def _as_queued(node: Mapping[str, Any]) -> dict[str, Any]:
    # the host writes fingerprints of its own into the graph that it runs, and they need not be JSON
    return {key: value for key, value in node.items() if key != "is_changed"}
