"""Threads that compute beside each other: the same bits in each of them, and none in the way of the others."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

SOFT = 1  # omp_pause_soft: what was set stays set


@dataclass(frozen=True)
class ThreadSettings:
    """What a step's numbers may depend on besides its inputs: how sums are split among threads, automatic casts."""

    threads: int
    casts: tuple[tuple[str, torch.dtype], ...]  # device types with autocast on, and what to

    @classmethod
    def here(cls) -> ThreadSettings:
        """Those of the calling thread; PyTorch keeps them for each thread apart."""
        kinds = ("cpu", "cuda") if torch.cuda.is_initialized() else ("cpu",)
        on = tuple((kind, torch.get_autocast_dtype(kind)) for kind in kinds if torch.is_autocast_enabled(kind))
        return cls(torch.get_num_threads(), on)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Compute with these in the calling thread."""
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)
        with contextlib.ExitStack() as stack:
            for kind, dtype in self.casts:
                stack.enter_context(torch.autocast(kind, dtype=dtype))
            yield


class Monitor:
    """A lock, and waits for what changes under it, which a signal can interrupt at any place without leaving it locked.

    `threading.Condition` cannot promise that: its methods are Python, and a KeyboardInterrupt between taking its lock
    and entering the block that gives it back leaves it taken for ever. So write `with monitor.lock`, a lock of C's.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._gates: list[Any] = []  # one a waiting thread, locked until something changes

    def notify(self) -> None:
        """Something changed; to be called with the lock held."""
        gates, self._gates = self._gates, []
        for gate in gates:
            gate.release()

    def wait_until(self, happened: Callable[[], Any]) -> Any:
        """What `happened` gives, called with the lock held until it is true; to be called without the lock."""
        while True:
            gate = threading.Lock()
            gate.acquire()
            with self.lock:
                if found := happened():
                    return found
                self._gates.append(gate)
            gate.acquire()


def release_pool() -> None:
    """End the helpers with which the calling thread computes; its next computation makes new ones, in about 0.1 ms.

    GNU's OpenMP, with which PyTorch computes on Linux, makes a pool of helpers for every thread that ever computed.
    Once all pools together have more threads than there are processors, helpers that wait for work go to sleep at once
    instead of spinning for a moment, even where the other pools do nothing. On two cores that doubled the time of a
    world's step.
    """
    pause = _pause()
    if pause is not None and torch.get_num_threads() > 1 and crowded():
        pause(SOFT)


def crowded() -> bool:
    """Whether there are too few processors for two threads that both compute with helpers."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 2 * torch.get_num_threads() > processors


@functools.cache
def _pause() -> Callable[[int], int] | None:
    """OpenMP's `omp_pause_resource_all`, where PyTorch computes with GNU's."""
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
        paths = {line.split(maxsplit=5)[5] for line in lines if "libgomp" in line}
        own = sorted(paths, key=lambda path: "torch" not in path)  # another package may have brought its own
        return ctypes.CDLL(own[0]).omp_pause_resource_all if own else None
    except (OSError, AttributeError):
        return None
