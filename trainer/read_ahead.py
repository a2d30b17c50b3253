"""Loads in threads what will be asked for next, so that a GPU never waits for a decoder."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")
THREADS = 4
AHEAD = 8


class ReadAhead(Generic[Key, Value]):
    """Calls ``load`` for the coming keys in threads; at most ``ahead`` values wait to be taken. A context manager."""

    def __init__(
        self, load: Callable[[Key], Value], keys: Iterable[Key], threads: int = THREADS, ahead: int = AHEAD
    ) -> None:
        self._load, self._keys, self._ahead = load, iter(keys), ahead
        self._pool = ThreadPoolExecutor(threads)
        self._waiting: deque[tuple[Key, Future[Value]]] = deque()

    def take(self, key: Key) -> Value:
        """The value of a key, or what ``load`` raised for it. Keys that are skipped are forgotten.

        A key that was not announced, or that lies behind, is loaded at once.
        """
        self._fill()
        while any(waiting == key for waiting, _ in self._waiting):
            waiting, future = self._waiting.popleft()
            if waiting == key:
                self._fill()
                return future.result()
            future.cancel()
        return self._load(key)

    def _fill(self) -> None:
        while len(self._waiting) < self._ahead:
            try:
                key = next(self._keys)
            except StopIteration:
                return
            self._waiting.append((key, self._pool.submit(self._load, key)))

    def __enter__(self) -> ReadAhead[Key, Value]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
