"""How long an agent survives and what it earns, in a dream or in the real game, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.type_aliases import PolicyPredictor
from stable_baselines3.common.vec_env import VecEnv

from worldsim.evaluate.metrics import interval
from worldsim.policies.ages import Age, Ages, Count, join_ages
from worldsim.policies.runs import Run, Runs, join_runs


@dataclass(frozen=True)
class Score:
    """What an agent reached in some episodes."""

    returns: tuple[float, ...]  # of each episode, in the game's own units
    lengths: tuple[int, ...]  # of each episode, in steps of the world, the last action counted whole
    ages: tuple[Age, ...] = ()  # what happened when
    runs: tuple[Run, ...] = ()  # and while an action was kept up for how long

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(np.mean(self.returns))

    @property
    def mean_length(self) -> float:
        """Mean length of an episode."""
        return float(np.mean(self.lengths))

    def interval(self) -> list[float]:
        """95 % of the mean return, by bootstrap over episodes: [low, high]."""
        return _interval(self.returns)

    def length_interval(self) -> list[float]:
        """95 % of the mean length, by bootstrap over episodes: [low, high]."""
        return _interval(self.lengths)

    def to_json(self) -> dict[str, Any]:
        """All of it, with means and intervals."""
        return {
            "episodes": len(self.returns),
            "mean_return": self.mean,
            "return_ci": self.interval(),
            "mean_length": self.mean_length,
            "length_ci": self.length_interval(),
            "returns": list(self.returns),
            "lengths": list(self.lengths),
            "ages": [asdict(age) for age in self.ages],
            "runs": [asdict(run) for run in self.runs],
        }

    def __str__(self) -> str:
        low, high = self.length_interval()
        return f"{self.mean_length:.0f} [{low:.0f}, {high:.0f}]"


def evaluate(
    policy: PolicyPredictor,
    envs: VecEnv,
    episodes: int,
    *,
    hold: int,
    seed: int = 0,
    deterministic: bool = True,
    count: Count | None = None,
) -> Score:
    """Play `episodes` whole episodes with seeds that follow from `seed`; the same again gives the same score.

    `envs` are those of `dream_envs` or `real_envs`, with actions held for `hold` steps of the world. A `deterministic`
    agent takes its likeliest action; otherwise it draws, from a generator of its own. `count` counts things in frames
    that are looked at now and then.
    """
    ages, runs = Ages(hold, count), Runs(hold)

    def see(local: dict[str, Any], others: dict[str, Any]) -> None:
        ages(local, others)
        runs(local, others)

    envs.seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        returns, lengths = evaluate_policy(
            policy, envs, n_eval_episodes=episodes, deterministic=deterministic, return_episode_rewards=True,
            callback=see,
        )  # fmt: skip
    assert isinstance(returns, list) and isinstance(lengths, list)
    steps = tuple(int(n) * hold for n in lengths)
    return Score(tuple(map(float, returns)), steps, ages.rows(), runs.rows())


def join(scores: Sequence[Score]) -> Score:
    """The score of all episodes of several ones of the same agent."""
    return Score(
        tuple(value for score in scores for value in score.returns),
        tuple(value for score in scores for value in score.lengths),
        join_ages([score.ages for score in scores]),
        join_runs([score.runs for score in scores]),
    )


def _interval(values: tuple[float, ...] | tuple[int, ...]) -> list[float]:
    array = np.array(values, np.float64)
    return interval(lambda index: float(array[index].mean()), len(array))
