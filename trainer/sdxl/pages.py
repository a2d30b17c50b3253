"""The base's weights in large pages of memory, for a CPU under Linux.

A training step reads gigabytes of weights once forwards and once backwards. In pages of 4 KB, finding each page takes
as long as reading it: products of one image of 256×256 take 12 to 40 % longer than in pages of 2 MB
(benchmarks/RESULTS.md). The weights stay where they are and are the same to the bit; only the kernel's tables change.
"""

from __future__ import annotations

import ctypes
import errno
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch

_SETTINGS = Path("/sys/kernel/mm/transparent_hugepage")
# Linux's include/uapi/asm-generic/mman-common.h, since Linux 6.1: moves at once, and leaves no advice behind on memory
# that the host may later use for something else
_MADV_COLLAPSE = 25
# pages that are moved between two looks at whether to go on
_AT_ONCE = 32
# what an allocator puts between two tensors
_GAP = 2**16
# where memory is in so many pieces that no large page is to be had, asking on only costs time
_NO_ROOM = (errno.ENOMEM, errno.EAGAIN, errno.EBUSY)
_MOST_REFUSALS = 4

# less than this lies in the processor's cache anyway
_LEAST_BYTES = 2**26

STAGE = "large pages for the weights (MB)"


def use_large_pages(tensors: Iterable[torch.Tensor], stage: Callable[[str, int, int], None]) -> int:
    """Let the kernel put the tensors' memory into large pages, and return the bytes of which it did.

    0 where there is nothing of the kind, where an administrator does not want it, or of little memory. stage: told of
    its progress; what it raises ends it.
    """
    if (side := _page_bytes()) == 0:
        return 0
    libc = ctypes.CDLL(None, use_errno=True)
    libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    pieces = list(_pieces(tensors, side))
    moved, seen, refused, total = 0, 0, 0, sum(size for _, size in pieces)
    if total < _LEAST_BYTES:
        return 0
    for place, size in pieces:
        if refused == _MOST_REFUSALS:
            break
        if libc.madvise(place, size, _MADV_COLLAPSE) == 0:
            moved, refused = moved + size, 0
        # else it is memory of another kind, such as a file's
        elif ctypes.get_errno() in _NO_ROOM:
            refused += 1
        seen += size
        stage(STAGE, seen // 2**20, total // 2**20)
    return moved


def _page_bytes() -> int:
    """The size of a large page; 0 where there are none."""
    if sys.platform != "linux":
        return 0
    try:
        wanted = (_SETTINGS / "enabled").read_text("ascii")
        return 0 if "[never]" in wanted else int((_SETTINGS / "hpage_pmd_size").read_text("ascii"))
    except (OSError, ValueError):
        return 0


def _pieces(tensors: Iterable[torch.Tensor], side: int) -> Iterator[tuple[int, int]]:
    """(address, bytes) of whole large pages that hold the tensors' storages, a few pages each."""
    storages = (tensor.untyped_storage() for tensor in tensors if tensor.device.type == "cpu")
    bounds = sorted({(storage.data_ptr(), storage.data_ptr() + storage.nbytes()) for storage in storages})
    runs: list[tuple[int, int]] = []
    for first, end in bounds:
        if runs and first - runs[-1][1] <= _GAP:
            runs[-1] = runs[-1][0], max(end, runs[-1][1])
        else:
            runs.append((first, end))
    for first, end in runs:
        whole, last = -(-first // side) * side, end // side * side
        for place in range(whole, last, _AT_ONCE * side):
            yield place, min(_AT_ONCE * side, last - place)
