"""Progress in the node, in the console and in the log, and the place where a cancel takes effect."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import comfy.model_management
import comfy.utils
from comfy_execution.utils import get_executing_context
from server import PromptServer

from ..trainer.clock import clock
from .reports import on_node

if TYPE_CHECKING:
    from PIL import Image

    from ..trainer.runs.registry import LiveRun
    from ..trainer.training.loop import Step

log = logging.getLogger("mjesec")
_CONSOLE_EVERY_SECONDS = 2.0
_PREVIEW_PX = 512


class NodeWatcher:
    """Shows a run on its node; every call may raise the host's interrupt, which ends the run."""

    def __init__(self, node_id: str | None) -> None:
        self.node_id = node_id
        self._bar: Any = None
        self._bar_of = ""
        self._stage_began, self._stage_first, self._share_first = 0.0, 0, 0.0
        self._part = self._spoke = 0.0
        self._told = ""

    def stage(
        self, name: str, done: int, total: int, preview: Image.Image | None = None, share: float | None = None
    ) -> None:
        """``share``: how much of the work is done, in [0, 1], where items take longer and shorter."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        now = time.monotonic()
        if self._bar_of != name:
            # some stages tell of nothing done first, others only when their first item is
            self._stage_began, self._stage_first, self._part = now, done, 0.0
            self._share_first = _share(done, total, share)
        # items of one batch are done together and told of one by one: the bar does not go back for that
        shown = max(done, min(self._part, total))
        self._advance(name, shown, total, None if preview is None else ("JPEG", preview, _PREVIEW_PX))
        since, passed = done - self._stage_first, now - self._stage_began
        rate = since / passed if since > 0 and passed > 0 else 0.0
        now_done = _share(done, total, share)
        worked = now_done - self._share_first
        left = f", {rate:.2f}/s, {clock(passed * (1 - now_done) / worked)} left" if rate and worked > 0 else ""
        self._tell(f"{name}: {done}/{total}{left}", force=done == total)

    def step(self, step: Step) -> None:
        self._advance("training", step.step, step.steps)
        rate = 1 / max(step.seconds_per_step, 1e-9)
        speed = f"{rate:.2f} steps/s" if rate >= 1 else f"{step.seconds_per_step:.2f} s/step"
        rates = ", ".join(f"lr {name} {value:.2e}" for name, value in step.rates.items())
        self._tell(
            f"step {step.step}/{step.steps}, loss {step.loss:.4f}, {speed}, {clock(step.eta)} left, {rates}",
            force=step.step == step.steps,
        )
        comfy.model_management.throw_exception_if_processing_interrupted()

    def say(self, line: str) -> None:
        log.info("[Mjesec] %s", line)

    def within(self, name: str, done: float, total: int, preview: Any = None) -> None:
        """A part of an item, on the bar alone; ``preview`` as the host's previewers give it."""
        self._part = max(self._part, done)
        self._advance(name, self._part, total, preview)

    def show(self, text: str) -> None:
        """Text on the node, until the next one.

        It goes to the editor that queued the graph, and with its prompt's id: that editor may show another graph by now
        in which some node has the same id.
        """
        context = get_executing_context()
        if self.node_id is None or context is None:
            return
        server = PromptServer.instance
        if server.client_id is not None:
            told = {"prompt_id": context.prompt_id, "node": self.node_id, "text": on_node(text)}
            server.send_sync("mjesec.text", told, server.client_id)

    def _advance(self, name: str, done: float, total: int, preview: Any = None) -> None:
        if self._bar_of != name:
            self._bar, self._bar_of = comfy.utils.ProgressBar(total, node_id=self.node_id), name
        self._bar.update_absolute(done, total, preview)

    def _tell(self, line: str, *, force: bool) -> None:
        now = time.monotonic()
        if not force and now - self._spoke < _CONSOLE_EVERY_SECONDS:
            return
        self._spoke = now
        # a pause may last for days
        if line != self._told:
            log.info("[Mjesec] %s", line)
        self._told = line
        self.show(line)


def _share(done: int, total: int, share: float | None) -> float:
    """How much of the work is done, in [0, 1]: as it is told, else as if all items took equally long."""
    return done / max(total, 1) if share is None else share


class RunWatcher(NodeWatcher):
    """Also tells a run's stages to whoever asks for the run by HTTP; its steps are told by its log."""

    def __init__(self, node_id: str | None, live: LiveRun) -> None:
        super().__init__(node_id)
        self.live = live

    def stage(
        self, name: str, done: int, total: int, preview: Image.Image | None = None, share: float | None = None
    ) -> None:
        self.live.stage(name, done, total)
        super().stage(name, done, total, preview, share)
