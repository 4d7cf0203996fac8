"""Judging agents in the dream and in the real game, on the same episodes for all of them, and the table of it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from stable_baselines3.common.type_aliases import PolicyPredictor
from stable_baselines3.common.vec_env import VecEnv

from worldsim.evaluate.probes import count_in_sight
from worldsim.policies.agent_envs import dream_envs, real_envs
from worldsim.policies.evaluate import Score, evaluate
from worldsim.policies.observation import ObservationConfig
from worldsim.world import World

SEED = 1 << 40  # of the judged episodes, far from those of training
DREAMS, GAMES = 32, 8  # environments at a time

TRAINED_IN = "dream as in training"

Scores = dict[str, Score]  # by the name of the place: "dream", TRAINED_IN or "real"


class Judge:
    """Plays whole episodes from their beginning, in the dream and, with `real`, in the real game.

    `trained_in` is the world as it is drawn in training, where that is another way than its own: agents are judged in
    that dream too. `trust_source` is that of `real_envs`.
    """

    def __init__(
        self,
        world: World,
        observation: ObservationConfig,
        *,
        episodes: int,
        real: bool = True,
        trained_in: World | None = None,
        seed: int = SEED,
        trust_source: bool = False,
    ) -> None:
        self.episodes = episodes
        self._seed = seed
        self._hold = observation.hold
        self._count = count_in_sight(world.config.source.name)
        rows = min(DREAMS, episodes)
        self._places: dict[str, VecEnv] = {"dream": dream_envs(world, rows, observation)}
        if trained_in is not None:
            self._places[TRAINED_IN] = dream_envs(trained_in, rows, observation)
        if real:
            games = min(GAMES, episodes)
            self._places["real"] = real_envs(world, games, observation, trust_source=trust_source)

    def __call__(self, policy: PolicyPredictor, episodes: int | None = None, *, deterministic: bool = True) -> Scores:
        """The policy's score in each place, over `episodes` (default: all)."""
        return {
            name: evaluate(
                policy, envs, episodes or self.episodes,
                hold=self._hold, seed=self._seed, deterministic=deterministic, count=self._count,
            )
            for name, envs in self._places.items()
        }  # fmt: skip

    def close(self) -> None:
        """Stop the simulators."""
        for envs in self._places.values():
            envs.close()


def format_table(rows: Mapping[str, Scores], real_steps: Mapping[str, int | None]) -> str:
    """A Markdown table of agents; `real_steps` says what each learned from, and has no entry for one that learned
    nothing."""
    dreams = [place for place in ("dream", TRAINED_IN) if any(place in scores for scores in rows.values())]
    titles = ["agent", "episode length in the real game, steps", "return in the real game"]
    titles += [title for place in dreams for title in (f"in the {place}", "over real")] + ["real steps learned from"]
    lines = [_row(titles), "|" + "---|" * len(titles)]
    for name, scores in rows.items():
        real, learned = scores.get("real"), real_steps.get(name, 0)
        cells = [name, str(real or "-"), _return(real)]
        cells += [text for place in dreams for text in (_return(scores.get(place)), _ratio(scores.get(place), real))]
        lines.append(_row([*cells, "not told" if learned is None else f"{learned:,}"]))
    return "\n".join(lines)


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def pooled(scores: list[Scores]) -> dict[str, float]:
    """Mean episode length in steps over agents that were trained alike, by place."""
    return {place: float(np.mean([score[place].mean_length for score in scores])) for place in scores[0]}


def _return(score: Score | None) -> str:
    if score is None:
        return "-"
    low, high = score.interval()
    return f"{score.mean:.0f} [{low:.0f}, {high:.0f}]"


def _ratio(dream: Score | None, real: Score | None) -> str:
    return f"{dream.mean / real.mean:.2f}" if dream is not None and real is not None and real.mean else "-"
