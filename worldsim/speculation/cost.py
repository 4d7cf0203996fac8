"""What a guess is worth: how likely it is, what it saves, what it costs to be wrong, and whether guesses slow one down.

Nothing here reads a clock: durations, in seconds, are passed in, so that the same rules run in tests.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import numpy as np

from worldsim.speculation.guessers import Candidate

WAKING = 0.0003  # seconds that it takes to wake another thread and to hand it work
FEW = 4  # measurements without which nothing is decided


class CostModel:
    """Weighs the time that a guess may save against the time that it may cost. All in seconds."""

    def __init__(self) -> None:
        self.calibrator = Calibrator()
        self._idle: deque[float] = deque(maxlen=64)  # from an answer to the next question
        self._cost = 0.0  # of a step, as a moving average; 0: not known
        self._stage = 0.0  # of its longest stage

    def idled(self, seconds: float) -> None:
        """The caller came back after so long."""
        self._idle.append(seconds)

    def computed(self, stages: Sequence[float]) -> None:
        """A step was computed, stage by stage."""
        weight = 0.1 if self._cost else 1.0
        self._cost = (1 - weight) * self._cost + weight * sum(stages)
        self._stage = (1 - weight) * self._stage + weight * max(stages)

    def idle_enough(self) -> bool:
        """Whether the caller idles long enough, often enough, to wake another thread at all."""
        known = self._cost > 0 and len(self._idle) >= FEW
        return known and sum(idle > WAKING for idle in self._idle) >= max(1, len(self._idle) // 16)

    def best(self, candidates: Sequence[Candidate], there: set[bytes], adapt: bool = True) -> Candidate | None:
        """The likeliest candidate, of those given likeliest first, that is not `there` yet; None if it does not pay."""
        wanted = next((candidate for candidate in candidates if candidate.key not in there), None)
        if wanted is None or not adapt:
            return wanted
        # Should the next action be neither this nor one that is there, the caller waits for the end of a stage.
        covered = [candidate for candidate in candidates if candidate is wanted or candidate.key in there]
        wrong = max(0.0, 1 - sum(self.calibrator.chance(candidate) for candidate in covered))
        saved = self.calibrator.chance(wanted) * self._cost
        return wanted if saved > wrong * self._stage / 2 else None


class Calibrator:
    """How far a guesser's probabilities can be believed: what came true over what was said, fading."""

    KEEP = 0.97  # of the past, a step

    def __init__(self) -> None:
        self._said = self._came = 0.0

    def note(self, candidates: Sequence[Candidate], key: bytes) -> None:
        """These were the candidates, and the actions with this key were taken."""
        self._said = self.KEEP * self._said + sum(candidate.probability for candidate in candidates)
        self._came = self.KEEP * self._came + any(candidate.key == key for candidate in candidates)

    def chance(self, candidate: Candidate) -> float:
        """Its probability, corrected."""
        return min(1.0, candidate.probability * (self._came + 1) / (self._said + 1))


class SlowdownGuard:
    """Compares whole cycles, from answer to answer, with guesses and without, and stops what slows the caller down.

    A caller that seems to idle may wait for something that computes on the same processors, which no other measurement
    shows. Now and then a cycle goes without guesses for comparison; it is not the caller's habits that choose which.
    """

    EVERY = 64  # cycles, of which one goes without
    FIRST = 8  # cycles without, before there is anything to compare with
    TRIAL = 16  # cycles with guesses before a verdict
    REST = 512  # cycles without any after guesses slowed the caller down
    TOLERANCE = 0.03  # how much slower is too slow
    DOUBT = 4.0  # standard errors by which it must be slower

    def __init__(self) -> None:
        self._with: list[float] = []
        self._without: deque[float] = deque(maxlen=16)
        self._cycles = 0
        self._rest = 0
        self._suspected = False

    def allows(self) -> bool:
        """Whether the cycle that begins now may have guesses; to be asked once a cycle."""
        if self._rest:
            self._rest -= 1
            return False
        self._cycles += 1
        return len(self._without) >= self.FIRST and self._cycles % self.EVERY != 0

    def note(self, seconds: float, guessing: bool) -> None:
        """A cycle took so long, with guesses allowed or not."""
        (self._with if guessing else self._without).append(seconds)
        if len(self._with) < self.TRIAL or len(self._without) < self.FIRST:
            return
        (on, on_error), (off, off_error) = _mean(self._with), _mean(self._without)
        slower = on - off > max(self.TOLERANCE * off, self.DOUBT * math.hypot(on_error, off_error))
        if slower and not self._suspected:  # or everything has become slower: compare with new cycles without
            self._suspected = True
            self._without.clear()
            return
        self._rest = self.REST if slower else 0
        self._suspected = False
        self._with.clear()


def _mean(values: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error; what is far out counts as four times the median."""
    cut = np.minimum(values, 4 * np.median(values))
    return float(cut.mean()), float(cut.std(ddof=1)) / math.sqrt(len(cut))
