"""A run's log as TensorBoard event files, where the package ``tensorboard`` is installed."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .log import Record


def is_installed() -> bool:
    return importlib.util.find_spec("tensorboard") is not None


class EventFiles:
    """A listener of ``RunLog``: writes scalars into ``folder``, from the run's beginning or resumption on.

    What cannot be written, on a full disk, ends the files and never the run; ``say`` tells it once.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.folder, self._say = folder, say
        self.failed = False
        self._writer: Any = None

    def hear(self, record: Record) -> None:
        with self._no_matter_what():
            self._hear(record)

    def close(self) -> None:
        with self._no_matter_what():
            self._close()

    @contextlib.contextmanager
    def _no_matter_what(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # its thread passes on whatever the disk said
            self._writer = None
            if not self.failed:
                self._say(f"No more TensorBoard files: they cannot be written ({error}); free some space on the disk.")
            self.failed = True

    def _hear(self, record: Record) -> None:
        event, step = record["event"], record["step"]
        if event == "begin" and not self.failed:
            self._open(step)
        elif self._writer is not None and event == "step":
            self._scalar("loss/training", record["loss"], step)
            self._scalar("loss/smoothed", record["smoothed_loss"], step)
            self._scalar("gradient norm", record["gradient_norm"], step)
            for group, rate in record["lr"].items():
                self._scalar(f"learning rate/{group}", rate, step)
        elif self._writer is not None and event == "validation":
            self._scalar("loss/held-out", record["loss"], step)
            for timestep, loss in zip(record["timesteps"], record["held_out"], strict=True):
                self._scalar(f"held-out by timestep/{timestep}", loss, step)
        elif self._writer is not None and event == "end":
            self._close()

    def _open(self, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._close()
        # what an earlier process wrote beyond this step will happen again
        self._writer = SummaryWriter(str(self.folder), purge_step=step + 1 if step else None)

    def _scalar(self, name: str, value: float | None, step: int) -> None:
        if value is not None:
            self._writer.add_scalar(name, value, step)

    def _close(self) -> None:
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.close()
