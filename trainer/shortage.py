"""Memory that is missing: how it is told, and what becomes of it where nothing can be given up for it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .errors import MemoryShortage

# of torch's allocator, of C++, and of oneDNN, whose primitives need room of their own
_ON_A_CPU = re.compile(
    r"can't allocate memory|not enough memory|bad_alloc|could not create a (memory|primitive(?! descriptor))", re.I
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch or Python found no memory: on a GPU an error of its own, on a CPU a RuntimeError with its words."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and _ON_A_CPU.search(str(error)) is not None


@contextmanager
def sentence_for_shortage(doing: str, cure: str) -> Iterator[None]:
    """``doing``: 'to encode an image'. ``cure``: what the user can do, without a full stop.

    Raises:
        MemoryShortage: for what torch or Python raised for want of memory.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryShortage(None, doing, cure) from error
