"""What came of the guesses: `SpeculationStats`."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from worldsim.speculation.guesses import Guess

# "hit": the step was there; "late": it was under way, and the caller waited for its end; "miss": it was computed
# on demand, after a guess in progress, if there was one, had left the processor.
Kind = Literal["hit", "late", "miss"]
RECENT = 4096


@dataclass
class SpeculationStats:
    """Counts since the environment was made; `depth` is how many steps ahead of the caller a guess was computed."""

    kinds: Counter[Kind] = field(default_factory=Counter)  # steps by what became of them
    computed: Counter[int] = field(default_factory=Counter)  # guesses computed, by depth
    used: Counter[int] = field(default_factory=Counter)  # of these, those that came true
    cancelled: int = 0  # guesses left half-way
    computed_seconds: float = 0.0  # spent on guesses, half-way ones included
    discarded_seconds: float = 0.0  # of these, what was of no use
    waited_seconds: float = 0.0  # that steps lost to guesses that were in the way
    last: Kind = "miss"  # what became of the last step
    latencies: deque[tuple[Kind, int, float]] = field(default_factory=lambda: deque(maxlen=RECENT))  # of recent steps
    idle: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))  # seconds before recent steps

    @property
    def steps(self) -> int:
        """Steps that were asked for."""
        return sum(self.kinds.values())

    @property
    def hit_rate(self) -> float:
        """Share of steps that were there, or under way, when they were asked for; 0 before the first."""
        return (self.kinds["hit"] + self.kinds["late"]) / max(1, self.steps)

    def latency_ms(self, kind: Kind, percentile: float = 50, depth: int | None = None) -> float | None:
        """A percentile of how long recent steps took, from question to answer; None if there were none."""
        found = [s for k, d, s in self.latencies if k == kind and depth in (None, d)]
        return 1000 * float(np.percentile(found, percentile)) if found else None

    def to_json(self) -> dict[str, Any]:
        """All of it, as a report has it."""
        depths = sorted(self.computed)
        kinds: tuple[Kind, ...] = ("hit", "late", "miss")
        return {
            "steps": self.steps,
            "hits": self.kinds["hit"],
            "late_hits": self.kinds["late"],
            "misses": self.kinds["miss"],
            "hit_rate": self.hit_rate,
            "computed": sum(self.computed.values()),
            "cancelled": self.cancelled,
            "computed_s": self.computed_seconds,
            "discarded_s": self.discarded_seconds,
            "discarded_share": self.discarded_seconds / self.computed_seconds if self.computed_seconds else 0.0,
            "waited_s": self.waited_seconds,
            "idle_ms_p50": 1000 * float(np.median(self.idle)) if self.idle else None,
            "latency_ms": {kind: {f"p{p}": self.latency_ms(kind, p) for p in (50, 95)} for kind in kinds},
            "by_depth": {
                str(depth): {
                    "computed": self.computed[depth],
                    "used": self.used[depth],
                    "discarded_share": 1 - self.used[depth] / self.computed[depth],
                    "hit_ms": {f"p{p}": self.latency_ms("hit", p, depth) for p in (50, 95)},
                }
                for depth in depths
            },
        }

    def stepped(self, kind: Kind, depth: int, seconds: float) -> None:
        """A step was answered."""
        self.kinds[kind] += 1
        self.last = kind
        self.latencies.append((kind, depth, seconds))

    def guessed(self, guess: Guess) -> None:
        """A guess was computed."""
        self.computed[guess.depth] += 1
        self.computed_seconds += guess.seconds

    def left(self, seconds: float) -> None:
        """A guess was left half-way."""
        self.cancelled += 1
        self.computed_seconds += seconds
        self.discarded_seconds += seconds

    def discarded(self, guesses: Iterable[Guess]) -> None:
        """These did not come true."""
        self.discarded_seconds += sum(guess.seconds for guess in guesses)
