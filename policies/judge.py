"""Judging agents in the dream and in the real game, on the same episodes for all of them, and the table of it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from stable_baselines3.common.type_aliases import PolicyPredictor
from stable_baselines3.common.vec_env import VecEnv

from worldsim.policies.agent_envs import dream_envs, real_envs, tics_per_action
from worldsim.policies.ages import counter
from worldsim.policies.evaluate import Score, evaluate
from worldsim.policies.observation import ObservationConfig
from worldsim.world import World

SEED = 1 << 40  # of the judged episodes, far from those of training
DREAMS, GAMES = 32, 8  # environments at a time

Scores = dict[str, Score]  # by the name of the place, "dream" or "real"


class Judge:
    """Plays whole episodes from their beginning, in the dream as it was learned and, with `real`, in the real game."""

    def __init__(
        self, world: World, observation: ObservationConfig, *, episodes: int, real: bool = True, seed: int = SEED
    ) -> None:
        self.episodes = episodes
        self._seed = seed
        self._tics = tics_per_action(world, observation)
        self._count = counter(world.config.source.name)
        self._places: dict[str, VecEnv] = {"dream": dream_envs(world, min(DREAMS, episodes), observation)}
        if real:
            self._places["real"] = real_envs(world, min(GAMES, episodes), observation)

    def __call__(self, policy: PolicyPredictor, episodes: int | None = None, *, deterministic: bool = True) -> Scores:
        """The policy's score in each place, over `episodes` (default: all)."""
        return {
            name: evaluate(
                policy, envs, episodes or self.episodes,
                tics_per_action=self._tics, seed=self._seed, deterministic=deterministic, count=self._count,
            )
            for name, envs in self._places.items()
        }  # fmt: skip

    def close(self) -> None:
        """Stop the simulators."""
        for envs in self._places.values():
            envs.close()


def format_table(rows: Mapping[str, Scores], real_tics: Mapping[str, int | None]) -> str:
    """A Markdown table of agents; `real_tics` says what each learned from, and has no entry for one that learned
    nothing."""
    lines = [
        "| agent | survival in the real game, tics | return in the real game | in the dream | dream over real "
        "| real tics learned from |",
        "|---|---|---|---|---|---|",
    ]
    for name, scores in rows.items():
        real, dream = scores.get("real"), scores["dream"]
        learned = real_tics.get(name, 0)
        lines.append(
            f"| {name} | {real or '-'} | {_return(real)} | {_return(dream)} | {_ratio(dream, real)} "
            f"| {'not told' if learned is None else f'{learned:,}'} |"
        )
    return "\n".join(lines)


def pooled(scores: list[Scores]) -> dict[str, float]:
    """Mean survival in tics over agents that were trained alike, by place."""
    return {place: float(np.mean([score[place].mean_tics for score in scores])) for place in scores[0]}


def _return(score: Score | None) -> str:
    if score is None:
        return "-"
    low, high = score.interval()
    return f"{score.mean:.0f} [{low:.0f}, {high:.0f}]"


def _ratio(dream: Score, real: Score | None) -> str:
    return f"{dream.mean / real.mean:.2f}" if real is not None and real.mean else "-"
