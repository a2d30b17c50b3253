"""What must be done whole or not at all, also where somebody presses Ctrl+C."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

# what ends a process that may still do something before; SIGHUP comes when a terminal is closed, and Windows has none
ENDING = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Let an interrupt or termination wait for the block's end; an error of the block comes before it.

    Python handles signals in the main thread alone, and in any other nothing has to be done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    # None: a handler that is not Python's and could not be put back; what is ignored does not have to wait
    held = {number: signal.getsignal(number) for number in ENDING}
    before = {number: handler for number, handler in held.items() if handler not in (None, signal.SIG_IGN)}
    for number in before:
        signal.signal(number, lambda number, _frame: came.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:
        signal.raise_signal(came[0])
