"""Agents that are trained alike, with several seeds: trained, evaluated, filmed, and what came of it in files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from stable_baselines3.common.vec_env import VecEnv

from worldsim.evaluate.plots import require_matplotlib
from worldsim.io.files import write_json
from worldsim.policies.agent import Agent
from worldsim.policies.agent_envs import dream_envs, real_envs
from worldsim.policies.ages import format_ages
from worldsim.policies.baselines import baselines
from worldsim.policies.change_cost import ChangeCost
from worldsim.policies.config import DreamConfig, Effort, EvaluateConfig, TrainConfig, effort
from worldsim.policies.controls import ShuffledActions
from worldsim.policies.curves import format_stages, save_curves
from worldsim.policies.judge import Judge, Scores, format_table, pooled
from worldsim.policies.observation import ObservationConfig
from worldsim.policies.rollouts import Workers, make_rollouts, one_thread
from worldsim.policies.runs import format_runs
from worldsim.policies.training import Training, find_agent
from worldsim.policies.video import film
from worldsim.sampling.noise_shaping import NoiseShaping
from worldsim.sampling.sampler import SamplingConfig
from worldsim.world import World

MOST_GAMES = 8  # simulators in one batch
STAGE_EPISODES = 16  # at most, to evaluate an agent by between two parts of its training

Trained = tuple[Scores, list[dict[str, Any]]]  # what an agent reached, by place, and the points of its curve


@dataclass
class Results:
    """Scores of agents and baselines, and the curves of those that were trained."""

    rows: dict[str, Scores] = field(default_factory=dict)
    curves: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    learned: dict[str, int | None] = field(default_factory=dict)  # steps of the real game
    means: dict[str, float] = field(default_factory=dict)  # episode length of the trained agents, by place

    def to_text(self) -> str:
        """The table, and for each trained agent what happened when."""
        parts = [format_table(self.rows, self.learned)]
        for name, points in self.curves.items():
            parts.append(f"{name}, stage by stage:\n{format_stages(points)}")
            parts.append(format_details(name, self.rows[name]))
        means = ", ".join(f"{place} {length:.0f}" for place, length in self.means.items())
        return "\n\n".join([*parts, f"mean episode length of the trained agents, steps: {means}"])

    def save(self, out: Path, options: dict[str, Any]) -> None:
        """Write `curves.png` and `results.json`, with the options that led to them."""
        place = "real" if "real" in self.means else "dream"
        levels = {name: scores[place].mean for name, scores in self.rows.items() if name not in self.curves}
        save_curves(out / "curves.png", self.curves, levels)
        agents = {name: {k: score.to_json() for k, score in row.items()} for name, row in self.rows.items()}
        write_json(out / "results.json", {"options": options, "mean_length": self.means, "agents": agents})


def format_details(name: str, scores: Scores) -> str:
    """Two tables: by the age of the game, and by how long an action has been kept up."""
    ages = format_ages({place: score.ages for place, score in scores.items()})
    runs = format_runs({place: score.runs for place, score in scores.items()})
    return f"{name}, by the age of the game:\n{ages}\n\n{name}, by how long it has kept up an action:\n{runs}"


def sampling_in_training(sampling: SamplingConfig, dream: DreamConfig) -> SamplingConfig:
    """A world's sampling with the temperature and the rate of noise shaping that training asks for."""
    changes: dict[str, Any] = {} if dream.temperature is None else {"temperature": dream.temperature}
    if dream.noise_shaping is not None:
        shaping = sampling.noise_shaping or NoiseShaping()
        changes["noise_shaping"] = replace(shaping, rate=dream.noise_shaping)
    return replace(sampling, **changes)


@dataclass(frozen=True)
class Agents:
    """The job of whoever trains agents that differ in their seeds; a task is a seed."""

    name: str
    out: Path
    observation: ObservationConfig
    train: TrainConfig
    evaluate: EvaluateConfig

    def open(self) -> Experiment:
        """Load the world, and start a simulator where it is needed."""
        return Experiment(self.name, self.out, self.observation, self.train, self.evaluate)


class Experiment:
    """Trains agents in the world called `name`, each in a folder of its own in `out`, and evaluates them.

    Raises InvalidInput, UnknownWorld and MissingDependency before anything is trained.
    """

    def __init__(
        self, name: str, out: Path, observation: ObservationConfig, train: TrainConfig, evaluate: EvaluateConfig
    ) -> None:
        require_matplotlib()
        self.name, self.out, self.observation = name, out, observation
        self.config, self.evaluation = train, evaluate
        self.effort: Effort = effort(train, evaluate)
        self.world = World.from_pretrained(name)
        dream = train.dream
        self.drawn = self.world.with_sampling(sampling_in_training(self.world.sampling, dream))
        if dream.compiled:
            self.world, self.drawn = self.world.compiled(), self.drawn.compiled(self.effort.num_envs)
        self._judge = Judge(
            self.world,
            observation,
            episodes=self.effort.episodes,
            real=not evaluate.no_real,
            trained_in=self.drawn if self.drawn.config != self.world.config else None,
            trust_source=evaluate.trust_source,
        )

    def run(self, task: int) -> Iterator[Trained]:
        """Train the agent of a seed."""
        yield self._train(task)

    def close(self) -> None:
        """Stop the simulators; may be called twice."""
        self._judge.close()

    def results(self, workers: Workers) -> Results:
        """All of it; writes as it goes on. With several workers agents are trained at the same time."""
        results, train = Results(), self.config
        seeds = range(train.seed, train.seed + train.seeds)
        for seed in seeds:
            find_agent(self._folder(seed), train.resume)
        # What a worker finds in a folder is then of one that was lost.
        job = Agents(self.name, self.out, self.observation, replace(train, resume=True), self.evaluation)
        try:
            with one_thread(workers), make_rollouts(job, workers, opened=self) as rollouts:
                for seed, items in zip(seeds, rollouts.run(seeds), strict=True):
                    agent = f"seed {seed}"
                    ((results.rows[agent], results.curves[agent]),) = items
                    results.learned[agent] = self.evaluation.real_steps if train.real is None else train.real
                results.means = pooled(list(results.rows.values()))
                if self.evaluation.baselines:
                    blind = baselines(self.world.spec.actions, hold=self.observation.hold)
                    results.rows |= {title: self._judge(policy) for title, policy in blind.items()}
        finally:
            self.close()
        results.save(self.out, self._options())
        return results

    def _folder(self, seed: int) -> Path:
        return self.out / f"seed-{seed}"

    def _train(self, seed: int) -> Trained:
        """One agent: its scores by place, and the points of its curve; its videos lie in its folder."""
        out, first = self._folder(seed), 1000 * seed  # the rows of a batch take the seeds that follow
        envs = self._envs(first)
        training = Training(
            envs, self.observation, self.world, self.name, out,
            seed=first, resume=self.config.resume, parent=self.config.from_agent,
        )  # fmt: skip
        few = min(STAGE_EPISODES, self.effort.episodes)
        agent = training.run(**self._budget(), stages=self.effort.stages, measure=lambda a: self._scores(a, few))
        envs.close()
        scores = self._scores(agent)
        training.note(scores)
        real, trusted = not self.evaluation.no_real, self.evaluation.trust_source
        film(agent, self.world, out, real=real, trust_source=trusted)
        return scores, training.points

    def _envs(self, seed: int) -> VecEnv:
        """What the agent is trained in."""
        rows, dream = self.effort.num_envs, self.config.dream
        if self.config.real is None:
            envs = dream_envs(
                self.drawn, rows, self.observation, seed=seed,
                max_episode_steps=dream.dream_steps, start=dream.start, ending_cost=dream.ending_cost,
            )  # fmt: skip
        else:
            trusted = self.evaluation.trust_source
            envs = real_envs(self.world, min(rows, MOST_GAMES), self.observation, seed=seed, trust_source=trusted)
        if self.config.change_cost is not None:
            envs = ChangeCost(envs, self.config.change_cost)
        return ShuffledActions(envs, seed=seed) if self.config.shuffled_actions else envs

    def _budget(self) -> dict[str, Any]:
        if self.config.real is not None:
            return {"steps": self.config.real // self.observation.hold}
        return {"minutes": self.effort.minutes} if self.config.steps is None else {"steps": self.config.steps}

    def _scores(self, agent: Agent, episodes: int | None = None) -> Scores:
        return self._judge(agent, episodes, deterministic=not self.evaluation.stochastic)

    def _options(self) -> dict[str, Any]:
        """All settings by name, as JSON takes them."""
        train, evaluate = asdict(self.config), asdict(self.evaluation)
        seen = asdict(self.observation)
        options = {
            "world": self.name, "out": self.out, "observation": seen.pop("kind"), **seen,
            **train.pop("dream"), **train, **evaluate, **asdict(self.effort),
        }  # fmt: skip
        if self.config.steps is not None or self.config.real is not None:
            options["minutes"] = None
        return {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
