"""Batches made one ahead in a thread, in order; errors surface where the batch is wanted."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetch(Generic[T]):
    """Calls `make(step)` for step = start, start + 1, … always one step ahead of `next()`."""

    def __init__(self, make: Callable[[int], T], start: int) -> None:
        self._make, self._step = make, start
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._future: Future[T] = self._pool.submit(make, start)

    def next(self) -> T:
        """The next batch; re-raises what went wrong in making it."""
        batch = self._future.result()
        self._step += 1
        self._future = self._pool.submit(self._make, self._step)
        return batch

    def close(self) -> None:
        """Stop the thread."""
        self._pool.shutdown(wait=True, cancel_futures=True)
