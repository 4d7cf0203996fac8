"""Is what an agent does as dangerous in the dream as in the game? Terminations by how long an action has been kept up.

An agent learns from a dream when to keep going and when to turn, so the two must be right beside each other. An agent
that turns more often in one of the places sees something else there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from worldsim.evaluate.metrics import ratio

EDGES = (0, 1, 2, 3, 4, 6, 1 << 31)  # decisions for the same action before this one


@dataclass(frozen=True)
class Run:
    """What came of decisions for an action that had been kept up for a while."""

    first: int  # steps of the world that it had been kept up, at least
    last: int  # exclusive
    steps: int  # spent in such decisions, by all episodes together
    terminations: int
    share: float  # of all steps

    @property
    def hazard(self) -> float:
        """Terminations in 1,000 steps."""
        return ratio(1000 * self.terminations, self.steps)


class Runs:
    """A callback of Stable-Baselines3's `evaluate_policy`, as `Ages` is."""

    def __init__(self, hold: int) -> None:
        """A decision is held for `hold` steps."""
        self._hold = hold
        self._bins = np.zeros((len(EDGES) - 1, 2), np.int64)  # decisions, terminations
        self._kept: dict[int, tuple[Any, int]] = {}  # by environment: its last action and the decisions for it

    def __call__(self, local: dict[str, Any], _: dict[str, Any]) -> None:
        """One decision of environment `i` of those in `local`, the variables of `evaluate_policy`."""
        row, action = local["i"], local["actions"][local["i"]]
        before, kept = self._kept.get(row, (None, 0))
        kept = kept if before is not None and np.array_equal(before, action) else 0
        into = self._bins[np.searchsorted(EDGES, kept, side="right") - 1]
        into[0] += 1
        self._kept[row] = np.copy(action), kept + 1
        if local["done"]:
            into[1] += not local["info"].get("TimeLimit.truncated", False)
            del self._kept[row]

    def rows(self) -> tuple[Run, ...]:
        """What was counted up to now, for runs as long as there were."""
        total = int(self._bins[:, 0].sum())
        return tuple(
            Run(first * self._hold, last * self._hold, int(decisions) * self._hold, int(ended), decisions / total)
            for (first, last), (decisions, ended) in zip(pairwise(EDGES), self._bins.tolist(), strict=True)
            if decisions
        )


def join_runs(parts: Sequence[tuple[Run, ...]]) -> tuple[Run, ...]:
    """What was counted in several groups of episodes together, all with actions held alike."""
    runs = [run for part in parts for run in part]
    total, joined = sum(run.steps for run in runs), []
    for first, last in sorted({(run.first, run.last) for run in runs}):
        there = [run for run in runs if run.first == first]
        steps = sum(run.steps for run in there)
        joined.append(Run(first, last, steps, sum(run.terminations for run in there), steps / total))
    return tuple(joined)


def format_runs(places: Mapping[str, tuple[Run, ...]]) -> str:
    """A Markdown table, by how long an action has been kept up, of an agent in several places ("dream", "real")."""
    titles = [f"{kind}, {place}" for kind in ("share of all steps", "terminations in 1,000 steps") for place in places]
    lines = ["| kept up for, steps | " + " | ".join(titles) + " |", "|---" * (1 + len(titles)) + "|"]
    for first, last in sorted({(run.first, run.last) for runs in places.values() for run in runs}):
        found = [next((run for run in runs if run.first == first), None) for runs in places.values()]
        cells = ["-" if run is None else f"{run.share:.2f}" for run in found]
        cells += ["-" if run is None else f"{run.hazard:.2f}" for run in found]
        name = f"{first} to {last}" if last < EDGES[-1] else f"from {first}"
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
