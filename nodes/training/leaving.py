"""A host that is ended while a run trains: the run saves its state first, as it does for a cancel."""

from __future__ import annotations

import atexit
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import comfy.model_management

log = logging.getLogger(__name__)
# seconds for the step under way and the state; a second Ctrl+C does not wait for them
_PATIENCE = 300


@contextmanager
def saved_when_the_host_ends() -> Iterator[None]:
    """Around a training in the host's worker, a daemon thread, which the interpreter's end would cut off anywhere.

    Where the host ends, the worker goes no further once this is left: freeing networks lets go of Python's lock, and a
    thread that then finds the interpreter gone is ended within a C++ destructor, which aborts the process.
    """
    leaving = threading.Event()
    ended = threading.Event()

    def leave() -> None:
        leaving.set()
        log.info("[Mjesec] ComfyUI ends: the training ends its step and saves its state first.")
        comfy.model_management.interrupt_current_processing(True)
        ended.wait(_PATIENCE)

    atexit.register(leave)
    try:
        yield
    except BaseException as error:
        if leaving.is_set() and not isinstance(error, comfy.model_management.InterruptProcessingException):
            # the host will not come to tell it
            log.error("[Mjesec] %s", error)
        raise
    finally:
        atexit.unregister(leave)
        ended.set()
        if leaving.is_set():
            threading.Event().wait()
