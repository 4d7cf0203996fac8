"""Judging agents in the dream and in the real game, on the same episodes for all of them, and the table of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from stable_baselines3.common.type_aliases import PolicyPredictor
from stable_baselines3.common.vec_env import VecEnv

from worldsim.evaluate.probes import count_in_sight
from worldsim.policies.agent_envs import dream_envs, real_envs
from worldsim.policies.evaluate import Score, evaluate, join
from worldsim.policies.observation import ObservationConfig
from worldsim.policies.rollouts import Rollouts, Workers, make_rollouts, one_thread
from worldsim.world import World

SEED = 1 << 40  # of the judged episodes, far from those of training
DREAMS, GAMES = 32, 8  # rows, which play some episodes each
DREAM_ROWS, GAME_ROWS = 16, 1  # in a group: dreams are faster together, games are not

TRAINED_IN = "dream as in training"

Scores = dict[str, Score]  # by the name of the place: "dream", TRAINED_IN or "real"


@dataclass(frozen=True)
class Group:
    """A task: some of the rows of environments that a policy is judged in. The same for any number of workers."""

    policy: PolicyPredictor
    place: str
    first: int  # row, which its seeds follow from
    rows: int
    episodes: int  # of all its rows
    deterministic: bool


@dataclass(frozen=True)
class Judging:
    """The job of whoever plays groups of episodes in these places; the item of a group is its score."""

    worlds: dict[str, World]  # by the name of the place
    observation: ObservationConfig
    real: bool  # play the real game, too
    trust_source: bool
    seed: int
    source: str | None = None  # another real game than the one that the world was recorded from

    def open(self) -> Places:
        """Start a simulator, where it is needed."""
        return Places(self)


class Places:
    """Environments of the places, made when they are first played in and kept, a batch for each number of rows."""

    def __init__(self, job: Judging) -> None:
        self._job = job
        self._envs: dict[tuple[str, int], VecEnv] = {}
        self._world = job.worlds["dream"]
        self._count = count_in_sight(self._world.config.source.name)
        if job.real:
            self._open("real", GAME_ROWS)  # raises where it cannot be

    def run(self, task: Group) -> Iterator[Score]:
        """Play the episodes of a group."""
        yield evaluate(
            task.policy, self._open(task.place, task.rows), task.episodes, hold=self._job.observation.hold,
            seed=self._job.seed + task.first, deterministic=task.deterministic, count=self._count,
        )  # fmt: skip

    def _open(self, place: str, rows: int) -> VecEnv:
        job, at = self._job, (place, rows)
        if at not in self._envs and place == "real":
            self._envs[at] = real_envs(
                self._world, rows, job.observation, trust_source=job.trust_source, source=job.source
            )
        elif at not in self._envs:
            self._envs[at] = dream_envs(job.worlds[place], rows, job.observation)
        return self._envs[at]

    def close(self) -> None:
        """Stop the simulators; may be called twice."""
        for envs in self._envs.values():
            envs.close()
        self._envs.clear()


class Judge:
    """Plays whole episodes from their beginning, in the dream and, with `real`, in the real game.

    `trained_in` is the world as it is drawn in training, where that is another way than its own: agents are judged in
    that dream too. `trust_source` and `source` are those of `real_envs`. `workers` play; scores do not depend on how
    many there are.
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
        source: str | None = None,
        workers: Workers | None = None,
    ) -> None:
        self.episodes = episodes
        worlds = {"dream": world} if trained_in is None else {"dream": world, TRAINED_IN: trained_in}
        self._places = [*worlds, *(["real"] if real else [])]
        job = Judging(worlds, observation, real, trust_source, seed, source)
        self._workers = workers or Workers()
        self._rollouts: Rollouts[Group, Score] = make_rollouts(job, self._workers, opened=job.open())

    def __call__(self, policy: PolicyPredictor, episodes: int | None = None, *, deterministic: bool = True) -> Scores:
        """The policy's score in each place, over `episodes` (default: all)."""
        tasks = [
            task for place in self._places for task in _groups(policy, place, episodes or self.episodes, deterministic)
        ]
        scores: dict[str, list[Score]] = {place: [] for place in self._places}
        with one_thread(self._workers):
            for task, items in zip(tasks, self._rollouts.run(tasks), strict=True):
                scores[task.place] += items
        return {place: join(parts) for place, parts in scores.items()}

    def close(self) -> None:
        """Stop the simulators and the workers."""
        self._rollouts.close()


def _groups(policy: PolicyPredictor, place: str, episodes: int, deterministic: bool) -> Iterator[Group]:
    """The episodes of a place, spread over rows; later rows play one more where they do not come out even."""
    most, size = (GAMES, GAME_ROWS) if place == "real" else (DREAMS, DREAM_ROWS)
    rows = min(most, episodes)
    for first in range(0, rows, size):
        last = min(first + size, rows)
        played = sum((episodes + row) // rows for row in range(first, last))
        yield Group(policy, place, first, last - first, played, deterministic)


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
