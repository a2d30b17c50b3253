"""How a run stands, from the records of its log, and the curve of its loss."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from .log import Record

MOST_POINTS = 4000
ENDED = ("finished", "stopped", "failed")


@dataclass(frozen=True)
class RunStatus:
    """One run at one moment. ``state``: preparing, training, paused, finished, stopped or failed.

    node_id, prompt_id, workflow_id: what asked for it. lr: rate by group. seconds_per_step: smoothed. file: the LoRA
    file that came of it, empty before.
    """

    id: str = ""
    name: str = ""
    node_id: str | None = None
    prompt_id: str | None = None
    workflow_id: str | None = None
    state: str = "preparing"
    stage: str = ""
    step: int = 0
    steps: int = 0
    steps_per_epoch: int = 0
    loss: float | None = None
    smoothed_loss: float | None = None
    validation: float | None = None
    lr: Mapping[str, float] = field(default_factory=dict)
    seconds_per_step: float | None = None
    time: float = 0.0
    message: str = ""
    file: str = ""

    def after(self, record: Record) -> RunStatus:
        """The status once ``record`` has happened; unknown fields and events change nothing."""
        known = {key: value for key, value in record.items() if key in _FIELDS and _fits(key, value)}
        event = record["event"]
        if event == "begin":
            known |= {"state": "training", "stage": "", "message": "", "file": ""}
        elif event in ("step", "resumed"):
            known |= {"state": "training", "stage": ""}
        elif event == "paused":
            known["state"] = "paused"
        elif event == "validation":
            known["validation"] = _number(record.get("loss"))
            known.pop("loss", None)
        elif event != "end":
            known.pop("file", None)
        return replace(self, **known)

    def as_dict(self, memory_mb: float | None = None, wishes: Iterable[str] = ()) -> dict[str, Any]:
        """The RUN of the HTTP routes: plain JSON. eta: seconds to the end; epoch counts from 1.

        wishes: what may be asked of the run now.
        """
        per_epoch = self.steps_per_epoch
        going = self.state in ("training", "paused") and self.seconds_per_step is not None
        shown = {name: getattr(self, name) for name in _FIELDS if name != "steps_per_epoch"}
        return {
            **shown,
            "lr": dict(self.lr),
            "eta": (self.steps - self.step) * (self.seconds_per_step or 0.0) if going else None,
            "epoch": math.ceil(self.step / per_epoch) if per_epoch else 0,
            "epochs": math.ceil(self.steps / per_epoch) if per_epoch else 0,
            "memory_mb": memory_mb,
            "wishes": list(wishes),
        }


_FIELDS = tuple(RunStatus.__dataclass_fields__)
_WHOLE_NUMBERS = ("step", "steps", "steps_per_epoch")
_NUMBERS = ("loss", "smoothed_loss", "validation", "seconds_per_step", "time")


def _fits(field_name: str, value: object) -> bool:
    """Whether a field of a log, which anything may have written, is what the status says it is."""
    if field_name in _WHOLE_NUMBERS:
        return isinstance(value, int) and value >= 0
    if field_name in _NUMBERS:
        return _number(value) is not None or (value is None and field_name != "time")
    if field_name == "lr":
        return isinstance(value, Mapping) and all(_number(rate) is not None for rate in value.values())
    return isinstance(value, str)


def _number(value: object) -> float | None:
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def status_of(records: Iterable[Record]) -> RunStatus | None:
    """The status after all records; None if they begin no run. A run that nobody ended was killed."""
    status = RunStatus()
    for record in records:
        status = status.after(record)
    return status if status.id else None


def killed(status: RunStatus) -> RunStatus:
    """A run whose process is gone without a word, from a crash or a power cut."""
    if status.state in ENDED:
        return status
    return replace(
        status, state="stopped", message="Its process ended; queue it again to go on from its last saved state."
    )


def points_of(records: Iterable[Record], since: int = 0, most: int = MOST_POINTS) -> list[dict[str, Any]]:
    """Points of steps after ``since``, at most ``most``; those with a held-out loss are the last to be left out."""
    points: dict[int, dict[str, Any]] = {}
    for record in records:
        if record["step"] > since and (point := point_of(record, points.get(record["step"]))) is not None:
            points[record["step"]] = point
    return _thinned(list(points.values()), most)


def point_of(record: Record, earlier: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """A record's point of the curve: step, loss, smoothed, lr, validation.

    earlier: the point of the same step so far.
    """
    loss = _number(record.get("loss"))
    if record["event"] == "step":
        rates = record.get("lr")
        return {
            "step": record["step"],
            "loss": loss,
            "smoothed": _number(record.get("smoothed_loss")),
            "lr": rates if _fits("lr", rates) else {},
            "validation": None,
        }
    if record["event"] == "validation" and record["step"]:
        before = earlier or {"step": record["step"], "loss": None, "smoothed": None, "lr": {}}
        return {**before, "validation": loss}
    return None


def samples_of(records: Iterable[Record], since: int = 0) -> list[dict[str, Any]]:
    """Sample images drawn after step ``since``: step, filename, subfolder, type, and the prompt."""
    return [sample for record in records if record["step"] > since for sample in samples_in(record)]


def samples_in(record: Record) -> list[dict[str, Any]]:
    """The sample images that a record tells of, mostly none."""
    files = record.get("files") if record["event"] == "sample" else None
    if not isinstance(files, list):
        return []
    named = [file for file in files if isinstance(file, Mapping) and isinstance(file.get("filename"), str)]
    fields = ("filename", "subfolder", "type", "prompt")
    return [
        {"step": record["step"], **{key: file[key] for key in fields if isinstance(file.get(key), str)}}
        for file in named
    ]


def _thinned(points: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    if len(points) <= most:
        return points
    marked = [point for point in points if point["validation"] is not None][-most // 2 :]
    stride = math.ceil(len(points) / max(1, most - len(marked) - 1))
    kept = {id(point) for point in [*marked, *points[::stride], points[-1]]}
    return [point for point in points if id(point) in kept]
