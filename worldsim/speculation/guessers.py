"""Where guesses come from: the last action, what followed what so far, or the caller's own policy."""

from __future__ import annotations

import heapq
import math
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from worldsim.errors import InvalidInput
from worldsim.spec import ActionSpec
from worldsim.speculation.guesses import Candidate
from worldsim.speculation.settings import Propose, Speculation
from worldsim.tree import clone

Path = tuple[np.ndarray, ...]  # actions that are taken for granted, oldest first


class Guesser(Protocol):
    """Says what may come next. `saw` and `ranked` may be called from two threads."""

    needs_observation: bool

    def saw(self, actions: np.ndarray) -> None:
        """These actions were taken, (B, ...)."""
        ...

    def ranked(self, path: Path, observation: Any) -> list[Candidate]:
        """What may come after `path`, where `observation` is seen; likeliest first."""
        ...


class Repeat:
    """Expects the last actions again."""

    needs_observation = False
    PROBABILITY = 0.9

    def __init__(self) -> None:
        self._last: np.ndarray | None = None

    def saw(self, actions: np.ndarray) -> None:
        """Remember them."""
        self._last = actions.copy()

    def ranked(self, path: Path, observation: Any) -> list[Candidate]:
        """The last actions."""
        last = path[-1] if path else self._last
        return [] if last is None else [Candidate(last, self.PROBABILITY)]


class Policy:
    """Asks the caller's own policy."""

    needs_observation = True
    FIRST, FALL = 0.8, 0.2  # how likely its first proposal is held to be, and each further one against the one before

    def __init__(self, propose: Propose, check: Callable[[Any], np.ndarray]) -> None:
        """`check` makes of a proposal what a world's step takes, or raises InvalidAction."""
        self._propose, self._check = propose, check

    def saw(self, actions: np.ndarray) -> None:
        """Nothing is remembered."""

    def ranked(self, path: Path, observation: Any) -> list[Candidate]:
        """What it proposes for a copy of the observation; nothing where there is none."""
        if observation is None:
            return []
        proposed = self._propose(clone(observation))
        if not isinstance(proposed, Sequence | np.ndarray) or np.ndim(proposed) == 0:
            kind = type(proposed).__name__
            raise InvalidInput(f"the function that proposes actions gave a {kind}; return a list, likeliest first")
        return [Candidate(self._check(one), self.FIRST * self.FALL**rank) for rank, one in enumerate(proposed)]


class Tail(NamedTuple):
    """The end of one row's actions: the last one, how often in a row it was taken, and the one before that."""

    previous: bytes | None = None
    current: bytes | None = None
    run: int = 0

    def then(self, action: bytes) -> Tail:
        """The tail after one more action."""
        if action == self.current:
            return self._replace(run=self.run + 1)
        return Tail(self.current, action, 1)

    def contexts(self) -> tuple[tuple[Any, ...], ...]:
        """What the next action may depend on, from the coarsest view to the finest."""
        # Keys are held for a time that people choose by feel: the longer, the coarser it is counted.
        run = self.run if self.run < 8 else 8 + min(int(2 * math.log2(self.run / 8)), 6)
        return (self.current,), (self.current, run), (self.previous, self.current, run)


class History:
    """Counts what followed what: the last action, how long it has been held, and the one before it.

    The views are mixed from the coarsest to the finest, each with the one before it as its expectation until it has
    seen enough; old counts fade. Rows of a batch share their counts and are held to be independent.
    """

    needs_observation = False
    HOLD = 0.8  # how likely an action is held on, before anything is known
    STRENGTH = 2.0  # of a coarser view, in observations
    FADE = 64  # observations of one context after which they count half
    CONTEXTS = 4096  # at most; then all is forgotten

    def __init__(self, spec: ActionSpec, rows: int, count: int, floor: float) -> None:
        """At most `count` candidates, none less likely than `floor`."""
        self._count, self._floor = count, floor
        self._tails = [Tail()] * rows
        self._counts: dict[tuple[Any, ...], dict[bytes, float]] = {}
        known = [np.int64(spec.start + index) for index in range(spec.n)] if spec.discrete else []
        self._known = {action.tobytes(): action for action in known}
        self._values: dict[bytes, Any] = dict(self._known)  # of continuous actions too, once they were seen
        self._lock = threading.Lock()

    def saw(self, actions: np.ndarray) -> None:
        """Count them."""
        with self._lock:
            if len(self._counts) > self.CONTEXTS:
                self._counts.clear()
                kept = {tail.current for tail in self._tails} | set(self._known)
                self._values = {key: value for key, value in self._values.items() if key in kept}
            for row, action in enumerate(actions):
                key = action.tobytes()
                self._values.setdefault(key, action.copy())
                for context in self._tails[row].contexts():
                    self._add(self._counts.setdefault(context, {}), key)
                self._tails[row] = self._tails[row].then(key)

    def ranked(self, path: Path, observation: Any) -> list[Candidate]:
        """The likeliest joint actions of all rows."""
        with self._lock:
            tails = list(self._tails)
            for actions in path:
                tails = [tail.then(action.tobytes()) for tail, action in zip(tails, actions, strict=True)]
            by_tail = {tail: self._distribution(tail) for tail in set(tails)}
            joint = likeliest([by_tail[tail] for tail in tails], self._count, self._floor)
            return [Candidate(np.stack([self._values[key] for key in keys]), p) for keys, p in joint]

    def _add(self, counts: dict[bytes, float], key: bytes) -> None:
        counts[key] = counts.get(key, 0.0) + 1.0
        if sum(counts.values()) > self.FADE:
            for seen in counts:
                counts[seen] /= 2

    def _distribution(self, tail: Tail) -> list[tuple[bytes, float]]:
        """The actions that may follow in one row and how likely each is, likeliest first."""
        views = [self._counts[context] for context in tail.contexts() if context in self._counts]
        keys = set(self._known).union(*views)
        if tail.current in self._values:
            keys.add(tail.current)
        others = max(1, len(keys) - 1)
        p = {key: self.HOLD if key == tail.current else (1 - self.HOLD) / others for key in keys}
        if tail.current not in keys:
            p = dict.fromkeys(keys, 1 / max(1, len(keys)))
        for counts in views:
            total = sum(counts.values()) + self.STRENGTH
            p = {key: (counts.get(key, 0.0) + self.STRENGTH * p[key]) / total for key in keys}
        return sorted(p.items(), key=lambda item: -item[1])


def likeliest(
    rows: Sequence[Sequence[tuple[bytes, float]]], count: int, floor: float
) -> list[tuple[tuple[bytes, ...], float]]:
    """The `count` likeliest joint choices of independent rows, each given likeliest first; none below `floor`."""
    if not all(rows):
        return []
    first = (0,) * len(rows)
    heap = [(-math.prod(row[0][1] for row in rows), first)]
    seen = {first}
    found: list[tuple[tuple[bytes, ...], float]] = []
    while heap and len(found) < count and -heap[0][0] >= floor:
        p, index = heapq.heappop(heap)
        found.append((tuple(row[i][0] for row, i in zip(rows, index, strict=True)), -p))
        for following in _following(index, rows):
            if following not in seen:
                seen.add(following)
                chance = math.prod(row[i][1] for row, i in zip(rows, following, strict=True))
                heapq.heappush(heap, (-chance, following))
    return found


def _following(index: tuple[int, ...], rows: Sequence[Sequence[Any]]) -> Iterable[tuple[int, ...]]:
    """The choices that differ from `index` by the next likeliest one in a single row."""
    for row, i in enumerate(index):
        if i + 1 < len(rows[row]):
            yield (*index[:row], i + 1, *index[row + 1 :])


def make_guesser(settings: Speculation, spec: ActionSpec, rows: int, check: Callable[[Any], np.ndarray]) -> Guesser:
    """The guesser that the settings ask for."""
    if settings.guess == "repeat":
        return Repeat()
    if settings.guess == "history":
        return History(spec, rows, settings.breadth, settings.floor)
    return Policy(settings.guess, check)
