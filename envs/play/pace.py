"""The clock: when steps start, when their frames are due, and what was achieved. All in seconds.

Nothing here reads the time: callers pass `now`, so that the same rules run in tests.
"""

from __future__ import annotations

from collections import deque

import numpy as np


class Pace:
    """Absolute deadlines, one a period, so that small delays never add up.

    A step may start before its deadline when the player's keys changed, but never before the deadline of the
    step before it: the game is at most one step ahead of its clock, and its average rate stays the real one.
    """

    def __init__(self, period: float, now: float) -> None:
        self.period = period
        self.deadline = now  # of the step that starts next

    def earliest(self) -> float:
        """When the next step may start if the keys changed."""
        return self.deadline - self.period

    def started(self, now: float) -> None:
        """A step started: move to the next deadline; time lost beyond a period is dropped, not caught up."""
        self.deadline = max(self.deadline + self.period, now)

    def rebase(self, now: float, period: float | None = None) -> None:
        """Begin a new grid: after a pause (`now` becomes the deadline), or with another `period`."""
        if period is None:
            self.deadline = now
        else:
            self.deadline = min(self.deadline, now + period)
            self.period = period


def spread(start: float, finish: float, deadline: float, frames: int) -> list[float]:
    """When to show the frames of a step that ran from `start` to `finish`, the next due at `deadline`.

    The first is due at once; the rest evenly over the time until the next step's first frame can be there.
    """
    duration = max(deadline - start, finish - start)
    return [finish + duration * i / frames for i in range(frames)]


class Rate:
    """Events a second over the last `span` seconds."""

    def __init__(self, span: float = 2.0) -> None:
        self._span = span
        self._times: deque[float] = deque(maxlen=4096)

    def tick(self, now: float) -> None:
        """Count one event."""
        self._times.append(now)

    def clear(self) -> None:
        """Forget all events, as after a pause."""
        self._times.clear()

    def per_second(self, now: float) -> float | None:
        """The mean rate from the first to the last event in the span; None within half a second."""
        while self._times and self._times[0] < now - self._span:
            self._times.popleft()
        if not self._times or self._times[-1] - self._times[0] < 0.5:
            return None
        return (len(self._times) - 1) / (self._times[-1] - self._times[0])


class Recent:
    """The last `capacity` durations and their percentiles, in milliseconds."""

    def __init__(self, capacity: int = 64) -> None:
        self._values: deque[float] = deque(maxlen=capacity)

    def add(self, seconds: float) -> None:
        """Remember one duration."""
        self._values.append(seconds)

    def milliseconds(self, percentile: float) -> float | None:
        """One percentile in milliseconds; None before the first duration."""
        return float(np.percentile(list(self._values), percentile)) * 1000 if self._values else None
