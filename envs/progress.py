"""Where environments stand in their episodes, and what a step of their world means in gymnasium's terms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from worldsim.envs.infos import Columns
from worldsim.errors import InvalidState
from worldsim.sampling.noise import SEED_LIMIT
from worldsim.spec import WorldStep


class Counters(NamedTuple):
    """Where one environment stands; with the world's state they say all of it."""

    seed: int | None = None  # None until the first reset
    episode: int = 0  # resets since it was last seeded
    step: int = 0
    ended: bool = False


@dataclass(frozen=True)
class Now:
    """Where N environments stand; replaced as a whole when a call ends, so that an interrupted one changes nothing."""

    state: Any  # the world's, a batch of N; None before the first reset
    progress: Progress
    shown: Any  # observations (N, ...) of many, the frame (H, W, 3) uint8 of one; None: not decoded yet


@dataclass(frozen=True)
class Outcome:
    """What a step of N environments gives besides the observations."""

    reward: np.ndarray  # (N,) float64
    terminated: np.ndarray  # (N,) bool
    truncated: np.ndarray  # (N,) bool
    info: Columns


class Progress:
    """The counters of N environments."""

    def __init__(self, num_envs: int) -> None:
        self.started = np.zeros(num_envs, np.bool_)  # whether each was ever reset
        self.seed = np.zeros(num_envs, np.int64)
        self.episode = np.zeros(num_envs, np.int64)
        self.step = np.zeros(num_envs, np.int64)
        self.ended = np.zeros(num_envs, np.bool_)

    def counters(self, row: int) -> Counters:
        """Those of one environment."""
        seed = int(self.seed[row]) if self.started[row] else None
        return Counters(seed, int(self.episode[row]), int(self.step[row]), bool(self.ended[row]))

    def put(self, row: int, counters: Counters) -> None:
        """Set those of one environment."""
        self.started[row] = counters.seed is not None
        self.seed[row], self.episode[row], self.step[row], self.ended[row] = counters.seed or 0, *counters[1:]

    def next_start(self, row: int, seed: int | None, random: np.random.Generator) -> tuple[int, int]:
        """(seed, episode) of the next episode: a given seed begins anew, else the old one counts on."""
        if seed is not None:
            return seed, 0
        if not self.started[row]:
            return int(random.integers(SEED_LIMIT)), 0
        return int(self.seed[row]), int(self.episode[row]) + 1

    def info(self, non_finite: np.ndarray | None = None) -> Columns:
        """What the info of every reset and step says of each environment."""
        # Not "episode": gymnasium's and Stable-Baselines3's statistics keep a dict of their own there.
        return {
            "step": self.step.copy(),
            "episode_index": self.episode.copy(),
            "seed": self.seed.copy(),
            "non_finite": np.zeros(len(self.step), np.bool_) if non_finite is None else non_finite,
        }

    def copy(self) -> Progress:
        """One of its own, to be changed."""
        other = Progress(len(self.step))
        for name, values in vars(self).items():
            setattr(other, name, values.copy())
        return other

    def after(
        self, result: WorldStep, limit: int | None, stepped: np.ndarray | None = None
    ) -> tuple[Progress, Outcome]:
        """Where the rows of `stepped` (N,) bool (default: all) stand a step later; what is said of others is void.

        A step whose numbers are not finite says nothing of the game: it truncates the episode with reward 0.
        """
        new = self.copy()
        stepped = np.ones(len(self.step), np.bool_) if stepped is None else stepped
        reward = np.asarray(result.reward, np.float64)
        non_finite = (np.asarray(result.extras.get("non_finite", False), np.bool_) | ~np.isfinite(reward)) & stepped
        new.step += stepped
        terminated = np.asarray(result.terminated, np.bool_) & ~non_finite & stepped
        truncated = non_finite if limit is None else non_finite | ((new.step >= limit) & stepped)
        new.ended = np.where(stepped, terminated | truncated, self.ended)
        extras = {name: np.asarray(values) for name, values in result.extras.items()}
        rewarded = np.where(stepped & ~non_finite, reward, 0.0)
        return new, Outcome(rewarded, terminated, truncated, extras | new.info(non_finite))

    def require_started(self) -> None:
        """Raise InvalidState where an environment has never been reset."""
        if not self.started.all():
            raise InvalidState("this environment has not been reset yet; call reset() first")

    def require_running(self) -> None:
        """Raise InvalidState before the first reset and after the end of an episode."""
        self.require_started()
        if self.ended.any():
            raise InvalidState(
                f"the episode ended at step {self.step[self.ended][0]}; call reset() before the next step()"
            )
