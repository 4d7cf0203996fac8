"""What a guess is worth: how likely it is, how long the caller will idle, what it costs to be wrong.

Nothing here reads a clock: durations, in seconds, are passed in, so that the same rules run in tests.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

WAKING = 0.0003  # seconds that it takes to wake another thread and to hand it work
FEW = 4  # measurements without which nothing is decided


@dataclass(frozen=True)
class Outlook:
    """What the caller's habits say of the time from now on."""

    finished: float  # share of a guess that will be done when the caller asks, on average
    interrupted: float  # probability that the caller asks before it is done
    unhidden: float  # seconds of a step that the next idle time will not hide, on average


class Economy:
    """Weighs the time that a guess may save against the time that it may cost. All in seconds."""

    def __init__(self) -> None:
        self._idle: deque[float] = deque(maxlen=64)  # from an answer to the next question
        self._cost: float | None = None  # of a step, as a moving average
        self._stage = 0.0  # of its longest stage

    def idled(self, seconds: float) -> None:
        """The caller came back after so long."""
        self._idle.append(seconds)

    def computed(self, stages: Sequence[float]) -> None:
        """A step was computed, stage by stage."""
        cost, stage = sum(stages), max(stages)
        weight = 1.0 if self._cost is None else 0.1
        self._cost = (1 - weight) * (self._cost or 0.0) + weight * cost
        self._stage = (1 - weight) * self._stage + weight * stage

    def idle_enough(self) -> bool:
        """Whether the caller idles long enough, often enough, to wake another thread at all."""
        if self._cost is None or len(self._idle) < FEW:
            return False
        return sum(idle > WAKING for idle in self._idle) >= max(1, len(self._idle) // 16)

    def outlook(self, elapsed: float) -> Outlook:
        """What is to be expected of a guess that begins `elapsed` seconds after the answer."""
        left = [idle - elapsed for idle in self._idle if idle > elapsed]
        cost = self._cost or 0.0
        unhidden = sum(max(0.0, cost - idle) for idle in self._idle) / max(1, len(self._idle))
        if not left or not cost:  # already longer than ever: who knows when they come back
            return Outlook(1.0, 0.0, unhidden)
        finished = sum(min(1.0, seconds / cost) for seconds in left) / len(left)
        return Outlook(finished, sum(seconds < cost for seconds in left) / len(left), unhidden)

    def worth(self, chance: float, depth: int, missing: float, outlook: Outlook) -> float:
        """Expected seconds saved by computing a guess now.

        `chance` that it comes true; `missing`: that what comes next is neither this nor a guess that is there already,
        in which case the caller waits for the end of a stage.
        """
        # A step further ahead saves only what the idle time before it will not hide anyway.
        saved = (self._cost or 0.0) if depth == 1 else outlook.unhidden
        return chance * outlook.finished * saved - missing * outlook.interrupted * self._stage / 2


class Trust:
    """How far a guesser's probabilities can be believed, by rank: what came true over what was said, fading."""

    KEEP = 0.97  # of the past, a step

    def __init__(self, ranks: int) -> None:
        self.ranks = ranks
        self._said, self._came = [0.0] * ranks, [0.0] * ranks

    def note(self, said: Sequence[float], came: int | None) -> None:
        """The guesser gave these probabilities, and the guess of rank `came` (None: none of them) came true."""
        for rank, probability in enumerate(said[: len(self._said)]):
            self._said[rank] = self.KEEP * self._said[rank] + probability
            self._came[rank] = self.KEEP * self._came[rank] + (rank == came)

    def chance(self, rank: int, probability: float) -> float:
        """The probability, corrected."""
        return min(1.0, probability * (self._came[rank] + 1) / (self._said[rank] + 1))


class Referee:
    """Compares whole cycles, from answer to answer, with guesses and without, and stops what slows the caller down.

    A caller that seems to idle may wait for something that computes on the same processors, which no other measurement
    shows. Now and then a cycle goes without guesses for comparison; it is not the caller's habits that choose which.
    """

    EVERY = 64  # cycles, of which one goes without
    FIRST = 8  # cycles without, before there is anything to compare with
    TRIAL = 8  # cycles with guesses before a verdict
    REST = 256  # cycles without any after guesses did harm; twice as long each time they do so again
    LONGEST = 4096
    HARM = 0.03  # how much slower is too slow
    DOUBT = 4.0  # standard errors by which it must be slower

    def __init__(self) -> None:
        self._busy: deque[float] = deque(maxlen=32)
        self._quiet: deque[float] = deque(maxlen=16)
        self._cycles = 0
        self._rest, self._next_rest = 0, self.REST

    def allows(self) -> bool:
        """Whether the cycle that begins now may have guesses; to be asked once a cycle."""
        if self._rest:
            self._rest -= 1
            return False
        self._cycles += 1
        return len(self._quiet) >= self.FIRST and self._cycles % self.EVERY != 0

    def note(self, seconds: float, busy: bool) -> None:
        """A cycle took so long, with guesses allowed or not."""
        (self._busy if busy else self._quiet).append(seconds)
        if not busy or len(self._busy) < self.TRIAL or len(self._quiet) < self.FIRST:
            return
        if self._harmful():
            self._busy.clear()
            self._rest = self._next_rest
            self._next_rest = min(2 * self._next_rest, self.LONGEST)
        elif len(self._busy) == self._busy.maxlen:
            self._next_rest = self.REST

    def _harmful(self) -> bool:
        """Slower by more than `HARM`, and by more than chance explains."""
        (busy, busy_error), (quiet, quiet_error) = _mean(self._busy), _mean(self._quiet)
        return busy - quiet > max(self.HARM * quiet, self.DOUBT * math.hypot(busy_error, quiet_error))


def _mean(values: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error; what is far out counts as four times the median."""
    ordered = sorted(values)
    cut = [min(value, 4 * ordered[len(ordered) // 2]) for value in ordered]
    mean = sum(cut) / len(cut)
    variance = sum((value - mean) ** 2 for value in cut) / max(1, len(cut) - 1)
    return mean, math.sqrt(variance / len(cut))
