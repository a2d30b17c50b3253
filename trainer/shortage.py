"""Memory that is missing outside of a training step: nothing can be given up there, so it becomes a sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .errors import MemoryShortage


@contextmanager
def sentence_for_shortage(doing: str, cure: str) -> Iterator[None]:
    """``doing``: 'to encode an image'. ``cure``: what the user can do, without a full stop.

    Raises:
        MemoryShortage: for what torch or Python raised for want of memory.
    """
    # the latents need this module, and that one the latents
    from .memory import is_out_of_memory

    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryShortage(None, doing, cure) from error
