"""The frames on their way from the model thread to the screen, each with the time it is due."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

View = tuple[np.ndarray, ...]  # what is shown at one moment, left to right: frames (H, W, 3) uint8


@dataclass(frozen=True)
class QueuedFrame:
    """One moment of the game."""

    view: View
    due: float  # time at which to show it
    pressed_at: float | None = None  # when the key was pressed whose effect it is the first to show


class Feed:
    """A queue between two threads; whoever takes gets the newest frame that is due, older ones are dropped.

    `wake` is called, outside of any lock, when what is due has changed.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._lock = threading.Lock()
        self._shots: deque[QueuedFrame] = deque()

    def put(self, shots: Sequence[QueuedFrame]) -> None:
        """Append the frames of a step, oldest first."""
        with self._lock:
            self._shots.extend(shots)
        self._wake()

    def replace(self, shot: QueuedFrame) -> None:
        """Drop whatever waits and show this one, as at the start of an episode."""
        with self._lock:
            self._shots.clear()
            self._shots.append(shot)
        self._wake()

    def hurry(self, now: float, within: float) -> None:
        """Show what still waits within the next `within` seconds, because a new step begins early."""
        with self._lock:
            gap = within / (1 + len(self._shots))
            soon = [replace(shot, due=min(shot.due, now + (i + 1) * gap)) for i, shot in enumerate(self._shots)]
            self._shots = deque(soon)
        self._wake()

    def take(self, now: float) -> QueuedFrame | None:
        """The newest frame that is due, with the oldest key press of all that were due; or None."""
        with self._lock:
            due = [shot for shot in self._shots if shot.due <= now]
            if not due:
                return None
            while self._shots[0] is not due[-1]:
                self._shots.popleft()
            self._shots.popleft()
            return replace(due[-1], pressed_at=min((s.pressed_at for s in due if s.pressed_at), default=None))

    def next_due(self) -> float:
        """When the next frame is due; infinity if none waits."""
        with self._lock:
            return min((shot.due for shot in self._shots), default=math.inf)
