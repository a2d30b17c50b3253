"""What the host says about a prompt, in a sentence or as files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def describe_refusal(error: Mapping[str, Any] | None, node_errors: Mapping[str, Any]) -> str:
    """One sentence out of the host's answer to a prompt that it found invalid."""
    for node, report in node_errors.items():
        for first in report.get("errors", []):
            culprit = f"node {node} ({report.get('class_type')})"
            details = f": {first['details']}" if first.get("details") else ""
            return f"ComfyUI refused {culprit}: {first.get('message')}{details}"
    error = error or {}
    details = f" ({error['details']})" if error.get("details") else ""
    return f"ComfyUI refused the prompt: {error.get('message', 'it gave no reason')}{details}"


def failure_of(entry: Mapping[str, Any]) -> str | None:
    """One sentence that says why a prompt failed, from its history entry; None if it succeeded."""
    status = entry.get("status") or {}
    if status.get("status_str") == "success":
        return None
    for name, detail in status.get("messages", []):
        if name == "execution_error":
            message = " ".join(str(detail.get("exception_message")).split())
            return f"node {detail.get('node_id')} ({detail.get('node_type')}) failed: {message}"
        if name == "execution_interrupted":
            return f"the prompt was interrupted at node {detail.get('node_id')} ({detail.get('node_type')})"
    return "the prompt failed without a message"


def output_files(entry: Mapping[str, Any], output: Path) -> list[Path]:
    """The files in the host's output folder that a finished prompt's nodes report, in the nodes' order."""
    found: list[Path] = []
    for values in (entry.get("outputs") or {}).values():
        for items in values.values():
            for item in items if isinstance(items, list) else ():
                if isinstance(item, dict) and item.get("filename") and item.get("type") == "output":
                    found.append(output / item.get("subfolder", "") / item["filename"])
    return list(dict.fromkeys(found))
