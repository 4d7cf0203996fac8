"""Do dreams get as dangerous with age as games do? Terminations, and what is in sight, by the age of a game.

The mean episode length of an agent cannot tell a dream that is too kind from one that forgets to get harder: this can.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from worldsim.evaluate.metrics import ratio
from worldsim.evaluate.probes import Count

EDGES = (0, 50, 100, 200, 400, 800, 1 << 31)  # of the ages, in steps of the world
LOOK_EVERY = 4  # decisions


@dataclass(frozen=True)
class Age:
    """What happened to those who were between two ages, in steps of the world."""

    first: int
    last: int  # exclusive
    steps: int  # played by all of them together
    terminations: int
    looks: int  # at frames
    seen: int  # things in them

    @property
    def hazard(self) -> float:
        """Terminations in 1,000 steps."""
        return ratio(1000 * self.terminations, self.steps)

    @property
    def in_sight(self) -> float:
        """Things in a frame."""
        return ratio(self.seen, self.looks)


class Ages:
    """A callback of Stable-Baselines3's `evaluate_policy`, which calls it for every environment at every decision."""

    def __init__(self, hold: int, count: Count | None) -> None:
        """A decision is held for `hold` steps; `count` counts things in frames."""
        self._hold, self._count = hold, count
        self._bins = np.zeros((len(EDGES) - 1, 4), np.int64)  # decisions, terminations, looks, seen
        self._counted: tuple[Any, np.ndarray] = (None, np.zeros(0))  # observations, and what was seen beside them

    def __call__(self, local: dict[str, Any], _: dict[str, Any]) -> None:
        """One decision of environment `i` of those in `local`, the variables of `evaluate_policy`."""
        row, age = local["i"], int(local["current_lengths"][local["i"]])  # decisions, this one included
        into = self._bins[np.searchsorted(EDGES, self._hold * (age - 1), side="right") - 1]
        into[0] += 1
        if local["done"]:  # what the environment shows by now is its next episode
            into[1] += not local["info"].get("TimeLimit.truncated", False)
        elif self._count is not None and age % LOOK_EVERY == 0:
            into[2] += 1
            into[3] += self._look(self._count, local)[row]

    def _look(self, count: Count, local: dict[str, Any]) -> np.ndarray:
        """What is in sight in every environment, counted once a decision."""
        if self._counted[0] is not local["new_observations"]:
            self._counted = local["new_observations"], count(np.stack(local["env"].get_images()))
        return self._counted[1]

    def rows(self) -> tuple[Age, ...]:
        """What was counted up to now, at ages that somebody reached."""
        return tuple(
            Age(first, last, int(decisions) * self._hold, int(terminations), int(looks), int(seen))
            for (first, last), (decisions, terminations, looks, seen) in zip(pairwise(EDGES), self._bins, strict=True)
            if decisions
        )


def join_ages(parts: Sequence[tuple[Age, ...]]) -> tuple[Age, ...]:
    """What was counted in several groups of episodes together."""
    numbers = ("steps", "terminations", "looks", "seen")
    joined = []
    for first, last in pairwise(EDGES):
        there = [age for ages in parts for age in ages if age.first == first]
        if there:
            joined.append(Age(first, last, *(sum(getattr(age, name) for age in there) for name in numbers)))
    return tuple(joined)


def format_ages(places: Mapping[str, tuple[Age, ...]]) -> str:
    """A Markdown table, by age, of an agent in several places ("dream", "real")."""
    seen = any(age.looks for ages in places.values() for age in ages)
    kinds = ["terminations in 1,000 steps", *(["objects in sight"] if seen else [])]
    lines = [
        "| age, steps | " + " | ".join(f"{kind}, {place}" for kind in kinds for place in places) + " |",
        "|---" * (1 + len(kinds) * len(places)) + "|",
    ]
    by_age = {place: {age.first: age for age in ages} for place, ages in places.items()}
    for first, last in pairwise(EDGES):
        found = [ages.get(first) for ages in by_age.values()]
        if not any(found):
            continue
        cells = ["-" if age is None else f"{age.hazard:.2f}" for age in found]
        cells += ["-" if age is None or not age.looks else f"{age.in_sight:.2f}" for age in found] if seen else []
        name = f"{first} to {last}" if last < EDGES[-1] else f"from {first}"
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
