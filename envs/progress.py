"""Where one environment stands in its episode, and what a step of its world means in gymnasium's terms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from worldsim.envs.starts import SEED_LIMIT
from worldsim.errors import InvalidState
from worldsim.spec import WorldStep


class Outcome(NamedTuple):
    """What a step gives besides the picture."""

    reward: float
    terminated: bool
    truncated: bool
    info: dict[str, Any]


@dataclass
class Progress:
    """The counters of one environment; with the world's state they say all of it."""

    seed: int | None = None  # None until the first reset
    episode: int = 0  # resets since it was last seeded
    step: int = 0
    ended: bool = False

    def next_start(self, seed: int | None, random: np.random.Generator) -> tuple[int, int]:
        """(seed, episode) of the next episode: a given seed begins anew, else the old one counts on."""
        if seed is not None:
            return seed, 0
        if self.seed is None:
            return int(random.integers(SEED_LIMIT)), 0
        return self.seed, self.episode + 1

    def begin(self, seed: int, episode: int) -> dict[str, Any]:
        """Enter an episode; the info of its reset."""
        self.seed, self.episode, self.step, self.ended = seed, episode, 0, False
        return self._info(non_finite=False)

    def advance(self, result: WorldStep, row: int, limit: int | None) -> Outcome:
        """Count one step, of which `row` of `result` is the outcome.

        A step whose numbers are not finite says nothing of the game: it truncates the episode with reward 0.
        """
        self.step += 1
        reward = float(result.reward[row])
        non_finite = bool(result.extras.get("non_finite", np.zeros(row + 1, bool))[row]) or not np.isfinite(reward)
        terminated = bool(result.terminated[row]) and not non_finite
        truncated = non_finite or (limit is not None and self.step >= limit)
        self.ended = terminated or truncated
        extras = {name: _row(values, row) for name, values in result.extras.items()}
        return Outcome(0.0 if non_finite else reward, terminated, truncated, extras | self._info(non_finite))

    def require_started(self) -> None:
        """Raise InvalidState before the first reset."""
        if self.seed is None:
            raise InvalidState("this environment has not been reset yet; call reset() first")

    def require_running(self) -> None:
        """Raise InvalidState before the first reset and after the end of an episode."""
        self.require_started()
        if self.ended:
            raise InvalidState(f"the episode ended at step {self.step}; call reset() before the next step()")

    def _info(self, non_finite: bool) -> dict[str, Any]:
        # Not "episode": gymnasium's and Stable-Baselines3's statistics keep a dict of their own there.
        return {"step": self.step, "episode_index": self.episode, "seed": self.seed, "non_finite": non_finite}


def _row(values: np.ndarray, row: int) -> Any:
    """One world's share of an extra: a python scalar, or an array of its own."""
    value = np.asarray(values)[row]
    return value.item() if np.ndim(value) == 0 else value.copy()
