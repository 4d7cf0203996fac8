"""What came of the guesses: `SpeculationStats`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

# "hit": the step was there; "late": it was under way, and the caller waited for its end; "miss": it was computed
# on demand, after a guess in progress, if there was one, had left the processor.
Kind = Literal["hit", "late", "miss"]


@dataclass
class SpeculationStats:
    """Counts since the environment was made."""

    kinds: Counter[Kind] = field(default_factory=Counter)  # steps by what became of them
    last: Kind = "miss"  # what became of the last step
    computed: int = 0  # guesses that were computed to the end
    cancelled: int = 0  # guesses left half-way
    computed_seconds: float = 0.0  # spent on guesses, half-way ones included
    used_seconds: float = 0.0  # of these, on guesses that came true
    waited_seconds: float = 0.0  # that steps lost to guesses that were in the way

    @property
    def discarded_seconds(self) -> float:
        """Spent on guesses that have been of no use."""
        return max(0.0, self.computed_seconds - self.used_seconds)

    @property
    def steps(self) -> int:
        """Steps that were asked for."""
        return sum(self.kinds.values())

    @property
    def hit_rate(self) -> float:
        """Share of steps that were there, or under way, when they were asked for; 0 before the first."""
        return (self.kinds["hit"] + self.kinds["late"]) / max(1, self.steps)

    def to_json(self) -> dict[str, Any]:
        """All of it, as a report has it."""
        derived = {name: getattr(self, name) for name in ("discarded_seconds", "steps", "hit_rate")}
        return {**vars(self), "kinds": dict(self.kinds), **derived}
