"""What an options node changes, told on the node: widgets that nobody touched undo what a preset set, too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace

from comfy_api.latest import io

from ...trainer.settings.training import TrainSettings
from ..reports import report_shown


def changed(settings: TrainSettings, **values: object) -> io.NodeOutput:
    """The settings with other values of some of their fields, and on the node what that changes."""
    after = replace(settings, **values)  # type: ignore[arg-type]
    return io.NodeOutput(after, ui=report_shown(told_changes(settings, after)))


def told_changes(before: TrainSettings, after: TrainSettings) -> str:
    """Two lines at most: what was set before and is set otherwise now, and what is set only now."""
    undone, new = [], []
    for name, default, old, now in _differences(TrainSettings(), before, after):
        (new if old == default else undone).append(f"{name} {_shown(old)} → {_shown(now)}")
    lines = [f"Replaced: {', '.join(undone)}."] if undone else []
    lines += [f"Set: {', '.join(new)}."] if new else []
    return "\n".join(lines or ["These options change nothing."])


def _differences(default: object, before: object, after: object) -> Iterator[tuple[str, object, object, object]]:
    """The fields in which two settings differ, also those of their groups: name, default, both values."""
    for field in fields(before):  # type: ignore[arg-type]
        values = tuple(getattr(each, field.name) for each in (default, before, after))
        if is_dataclass(values[0]):
            yield from _differences(*values)
        elif values[1] != values[2]:
            yield field.name, *values


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    return "nothing" if value in (None, "") else str(value)
