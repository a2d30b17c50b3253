"""The graph as the host's own files carry it, so that a file of ours that is dropped on the editor opens it too."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


def graph_metadata(prompt: Mapping[str, Mapping[str, Any]] | None, extra: Mapping[str, Any] | None) -> dict[str, str]:
    """``prompt`` and whatever the editor sent along (``workflow``), as JSON; empty where a node was called without."""
    out = {} if prompt is None else {"prompt": json.dumps({name: _as_queued(node) for name, node in prompt.items()})}
    return {**out, **{key: json.dumps(value) for key, value in (extra or {}).items()}}


def _as_queued(node: Mapping[str, Any]) -> dict[str, Any]:
    # the host writes fingerprints of its own into the graph that it runs, and they need not be JSON
    return {key: value for key, value in node.items() if key != "is_changed"}


@dataclass(frozen=True)
class Origin:
    """Where something was asked for: a node of a workflow, and the graph as files are to carry it.

    workflow_id: the one that the editor gave it, for node ids are the same in many; None for a graph from elsewhere.
    """

    node_id: str | None
    workflow_id: str | None
    graph: Mapping[str, str]


def origin_of(hidden: Any) -> Origin:
    """From a node's hidden inputs, which are unique_id, prompt and extra_pnginfo."""
    told = hidden.extra_pnginfo
    workflow = told.get("workflow") if isinstance(told, dict) else None
    found = workflow.get("id") if isinstance(workflow, dict) else None
    return Origin(hidden.unique_id, found if isinstance(found, str) else None, graph_metadata(hidden.prompt, told))
