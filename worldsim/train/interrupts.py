"""Ctrl-C, SIGTERM and SIGHUP: held back until what runs is whole, so that what is kept can be gone on with.

A program that a signal ends says so in its exit code, 128 and the signal's number, as shells expect: 130 for Ctrl-C,
143 for SIGTERM, 129 for SIGHUP.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Interrupted(KeyboardInterrupt):
    """A signal asked the program to end."""

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by signal {number}")
        self.number = number


class Interrupts:
    """While entered, the first signal is only noted in `seen`; a second one raises Interrupted at once."""

    def __init__(self) -> None:
        self.number: int | None = None  # of the signal that came

    @property
    def seen(self) -> bool:
        """Whether a signal came."""
        return self.number is not None

    def __enter__(self) -> Interrupts:
        self._before = _set_handlers(self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.seen:
            raise Interrupted(number)
        self.number = number

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def raise_if_seen(self) -> None:
        """Raise Interrupted if a signal came; to be called once all is saved."""
        if self.number is not None:
            raise Interrupted(self.number)


@contextlib.contextmanager
def signals_raise() -> Iterator[None]:
    """While entered, signals raise Interrupted, so that what was begun is left in order: files, games, windows."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Interrupted(number)

    before = _set_handlers(stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _set_handlers(handler: Any) -> dict[int, Any]:
    """Handle all signals but ignored ones (`nohup`), and return their handlers before; only in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    caught = [number for number in SIGNALS if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    return {number: signal.signal(number, handler) for number in caught}
