"""A node's report: an output by its wire, and a text that the editor shows on the node itself."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import ui
from comfy_execution.utils import get_executing_context
from server import PromptServer


def report_shown(text: str) -> dict[str, Any]:
    """What a node hands on as its `ui`; the text takes the place of the progress that was last shown on the node.

    The editor shows the text outputs of its own PreviewAny alone, and the progress of every node.
    """
    context, server = get_executing_context(), getattr(PromptServer, "instance", None)
    if context is not None and server is not None:
        server.send_progress_text(text, context.node_id)
    return ui.PreviewText(text).as_dict()
