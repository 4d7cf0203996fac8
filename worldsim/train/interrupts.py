"""Ctrl-C and a scheduler's SIGTERM, held back until a training step is whole, so that what is saved can be resumed."""

from __future__ import annotations

import signal
import threading
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """While entered, the first signal is only noted in `seen`; a second one raises KeyboardInterrupt at once."""

    def __init__(self) -> None:
        self.seen = False

    def __enter__(self) -> Interrupts:
        main = threading.current_thread() is threading.main_thread()  # only there can signals be caught
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS} if main else {}
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.seen:
            raise KeyboardInterrupt
        self.seen = True

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
