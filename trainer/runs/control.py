"""What a user asks of a run from another thread: pause, go on, stop, save, sample. The run asks after every step."""

from __future__ import annotations

import threading
from collections.abc import Callable

_POLL_SECONDS = 0.1


class Control:
    """Wishes for one run. Every method may be called from any thread; none of them waits but ``wait``.

    samples: whether the run has sample images to draw.
    """

    def __init__(self, *, samples: bool = False) -> None:
        self._samples = samples
        self._changed = threading.Condition()
        self._paused = self._stopping = self._save = self._sample = False

    def wishes(self) -> tuple[str, ...]:
        """What may be asked now; anything else would be refused."""
        if self._stopping:
            return ()
        if self._paused:
            return ("resume", "stop")
        return ("pause", "stop", "save", "sample") if self._samples else ("pause", "stop", "save")

    def pause(self) -> None:
        """Save the state after the step that is under way, give the memory back, and wait for ``resume``.

        Raises:
            ValueError: the run is paused or stopping already.
        """
        self._ask("_paused", "paused")

    def resume(self) -> None:
        """Go on from a pause.

        Raises:
            ValueError: the run is not paused.
        """
        with self._changed:
            if not self._paused:
                raise ValueError("The run is not paused, so there is nothing to resume.")
            self._paused = False
            self._changed.notify_all()

    def stop(self) -> None:
        """End the run after the step that is under way and save the LoRA as it is; a pause ends too.

        Before the first step, while images are encoded, there is no LoRA to save.

        Raises:
            ValueError: the run is stopping already.
        """
        with self._changed:
            self._refuse_if_stopping()
            self._stopping, self._paused = True, False
            self._changed.notify_all()

    def save(self) -> None:
        """Write a LoRA file and the state after the step that is under way.

        Raises:
            ValueError: the run is paused or stopping.
        """
        self._ask("_save", "paused: resume it, or stop it, which saves the LoRA")

    def sample(self) -> None:
        """Draw the sample images after the step that is under way.

        Raises:
            ValueError: the run has no samples to draw, is paused or stopping.
        """
        if not self._samples:
            raise ValueError("The run has no sample prompts; connect Training Samples to its node.")
        self._ask("_sample", "paused: resume it first")

    def _ask(self, wish: str, refusal: str) -> None:
        with self._changed:
            self._refuse_if_stopping()
            if self._paused:
                raise ValueError(f"The run is {refusal}.")
            setattr(self, wish, True)

    def _refuse_if_stopping(self) -> None:
        if self._stopping:
            raise ValueError("The run is stopping already.")

    @property
    def paused(self) -> bool:
        return self._paused

    @property
    def stopping(self) -> bool:
        return self._stopping

    def take_save(self) -> bool:
        """Whether a save was asked for since the last call."""
        return self._take("_save")

    def take_sample(self) -> bool:
        """Whether samples were asked for since the last call."""
        return self._take("_sample")

    def _take(self, wish: str) -> bool:
        with self._changed:
            wanted = getattr(self, wish)
            setattr(self, wish, False)
        return bool(wanted)

    def wait(self, check: Callable[[], None]) -> None:
        """Block until the pause ends; ``check`` is called several times a second, and what it raises ends the wait."""
        while self._paused:
            check()
            with self._changed:
                self._changed.wait_for(lambda: not self._paused, _POLL_SECONDS)
