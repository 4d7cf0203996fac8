"""Where guesses come from: what followed what so far, or the caller's own policy."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from worldsim.errors import InvalidInput
from worldsim.spec import ActionSpec
from worldsim.speculation.settings import Propose, Speculation
from worldsim.state.tree import clone

FLOOR = 0.001  # candidates that are less likely than this are left alone


@dataclass(frozen=True)
class Candidate:
    """Actions of the whole batch that may come next, and how likely a guesser holds them to be."""

    actions: np.ndarray  # (B,) int64 or (B, A) float32, as a world's step takes them
    probability: float

    @property
    def key(self) -> bytes:
        """What tells actions apart: their bytes, since only the very same ones give the very same step."""
        return self.actions.tobytes()


class Policy:
    """Asks the caller's own policy."""

    FIRST, FALL = 0.8, 0.2  # how likely its first proposal is held to be, and each further one against the one before

    def __init__(self, propose: Propose, check: Callable[[Any], np.ndarray]) -> None:
        """`check` makes of a proposal what a world's step takes, or raises InvalidAction."""
        self._propose, self._check = propose, check

    def saw(self, actions: np.ndarray) -> None:
        """Nothing is remembered."""

    def ranked(self, observation: Any) -> list[Candidate]:
        """What it proposes for a copy of the observation; nothing where there is none."""
        if observation is None:
            return []
        proposed = self._propose(clone(observation))
        if not isinstance(proposed, Sequence | np.ndarray) or np.ndim(proposed) == 0:
            kind = type(proposed).__name__
            raise InvalidInput(f"the function that proposes actions gave a {kind}; return a list, likeliest first")
        return [Candidate(self._check(one), self.FIRST * self.FALL**rank) for rank, one in enumerate(proposed)]


class History:
    """Counts which action followed which; old counts fade. Rows share their counts and are held to be independent."""

    HOLD = 0.8  # how likely an action is held on, before anything is known
    STRENGTH = 2.0  # of that expectation, in observations
    FADE = 64  # observations that followed one action after which they count half
    ACTIONS = 4096  # continuous ones that are remembered at most; then all is forgotten

    def __init__(self, spec: ActionSpec, rows: int, count: int) -> None:
        """At most `count` candidates."""
        self._count = count
        self._last: list[bytes | None] = [None] * rows
        self._followed: dict[bytes | None, dict[bytes, float]] = {}
        known = [np.int64(spec.start + index) for index in range(spec.n)] if spec.discrete else []
        self._known = {action.tobytes(): action for action in known}
        self._values: dict[bytes, Any] = dict(self._known)  # of continuous actions too, once they were seen
        self._lock = threading.Lock()

    def saw(self, actions: np.ndarray) -> None:
        """Count them."""
        with self._lock:
            if len(self._followed) > self.ACTIONS:
                self._followed, self._values, self._last = {}, dict(self._known), [None] * len(actions)
            for row, action in enumerate(actions):
                key = action.tobytes()
                self._values.setdefault(key, action.copy())
                counts = self._followed.setdefault(self._last[row], {})
                counts[key] = counts.get(key, 0.0) + 1.0
                if sum(counts.values()) > self.FADE:
                    for other in counts:
                        counts[other] /= 2
                self._last[row] = key

    def ranked(self, observation: Any) -> list[Candidate]:
        """The likeliest joint actions of all rows."""
        with self._lock:
            after = {last: self._distribution(last) for last in set(self._last)}
            joint = likeliest([after[last] for last in self._last], self._count)
            return [Candidate(np.stack([self._values[key] for key in keys]), p) for keys, p in joint]

    def _distribution(self, last: bytes | None) -> list[tuple[bytes, float]]:
        """The actions that may follow on `last` in one row and how likely each is, likeliest first."""
        counts = self._followed.get(last, {})
        keys = dict.fromkeys([*self._known, *counts, *([] if last is None else [last])])
        hold = self.HOLD if last is not None else 0.0
        other = (1 - hold) / max(1, len(keys) - (last is not None))
        total = sum(counts.values()) + self.STRENGTH
        p = {k: (counts.get(k, 0.0) + self.STRENGTH * (hold if k == last else other)) / total for k in keys}
        return sorted(p.items(), key=lambda item: -item[1])


def likeliest(rows: Sequence[Sequence[tuple[bytes, float]]], count: int) -> list[tuple[tuple[bytes, ...], float]]:
    """The `count` likeliest joint choices of independent rows, each given likeliest first.

    Only the best choice and those that differ from it in a single row are considered, and none below `FLOOR`.
    """
    if not all(rows):
        return []
    best = tuple(row[0][0] for row in rows)
    chance = math.prod(row[0][1] for row in rows)
    joint = [(best, chance)]
    for place, row in enumerate(rows):
        joint += [((*best[:place], key, *best[place + 1 :]), chance * p / row[0][1]) for key, p in row[1:]]
    return [choice for choice in sorted(joint, key=lambda choice: -choice[1])[:count] if choice[1] >= FLOOR]


Guesser = Policy | History  # their methods may be called from two threads


def make_guesser(settings: Speculation, spec: ActionSpec, rows: int, check: Callable[[Any], np.ndarray]) -> Guesser:
    """The guesser that the settings ask for."""
    if settings.guess == "history":
        return History(spec, rows, settings.breadth)
    return Policy(settings.guess, check)
