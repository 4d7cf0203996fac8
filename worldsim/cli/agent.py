"""`worldsim agent …`: trains agents inside a world, evaluates them there and in the real game, films and compares.

The settings are those of `worldsim.policies.config`, which are imported when this command runs; what needs
Stable-Baselines3 is imported when one of its parts does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from worldsim.cli.output import require_writable, say
from worldsim.errors import InvalidInput, MissingDependency
from worldsim.io.folders import AGENT, find_world
from worldsim.policies.config import EvaluateConfig, TrainConfig
from worldsim.policies.observation import ObservationConfig
from worldsim.policies.rollouts import Workers
from worldsim.world import World

if TYPE_CHECKING:
    from worldsim.policies.agent import Agent

SUFFIX = ".safetensors"  # of an agent's file

Flat = tyro.conf.arg(name="")  # options without a prefix


@dataclass(frozen=True)
class TrainCommand:
    """Train agents with PPO inside a world, then evaluate and film them there and in the real game.

    Leaves agents, videos, curves.png and results.json.
    """

    world: Annotated[str, tyro.conf.Positional]  # a shipped name, a local folder or a hub id
    out: Path  # folder for all that is written
    observation: Annotated[ObservationConfig, Flat] = field(default_factory=lambda: ObservationConfig(hold=20))
    train: Annotated[TrainConfig, Flat] = field(default_factory=TrainConfig)
    evaluate: Annotated[EvaluateConfig, Flat] = field(default_factory=EvaluateConfig)
    # train agents of several --seeds at the same time; a training gives no sign of life before it is over
    workers: Annotated[Workers, Flat] = field(default_factory=lambda: Workers(patience=math.inf))

    def run(self) -> None:
        """Train, evaluate, film, print and write."""
        from worldsim.policies.experiment import Experiment

        if not self.workers.here and self.train.seeds < 2:
            raise InvalidInput("one agent is trained in one process; add --seeds 2 or more, or leave out --workers")
        experiment = Experiment(self.world, self.out, self.observation, self.train, self.evaluate)
        results = experiment.results(self.workers)
        say(results.to_text())
        print(f"wrote {self.out}: agents, videos, curves.png, results.json")


@dataclass(frozen=True)
class EvaluateCommand:
    """Evaluate a trained agent by whole episodes of the world, and of the real game."""

    agent: Annotated[Path, tyro.conf.Positional]  # an agent (.safetensors), or a world that one comes with
    world: str | None = None  # a shipped name, a local folder or a hub id; without it the one that the agent names
    episodes: int = 100  # whole ones, in either place
    real: bool = False  # evaluate it in the real game, too
    source: str | None = None  # with --real: another simulator with the same frames and actions: other levels
    stochastic: bool = False  # the agent draws its actions; without it it takes the likeliest ones
    baselines: bool = False  # evaluate random actions and constant ones, too
    trust_source: bool = False  # let the real game be a Python module that the world's files name
    json: Path | None = None  # write the figures to this file
    workers: Annotated[Workers, Flat] = field(default_factory=Workers)

    def run(self) -> None:
        """Play, print and write."""
        from worldsim.io.files import write_json
        from worldsim.policies.baselines import baselines
        from worldsim.policies.experiment import format_details
        from worldsim.policies.judge import Judge, format_table

        _check_episodes(self.episodes)
        if self.json is not None:
            require_writable(self.json)
        agent, world, name = _open(self.agent, self.world)
        judge = Judge(
            world, agent.observation, episodes=self.episodes, real=self.real, trust_source=self.trust_source,
            source=self.source, workers=self.workers,
        )  # fmt: skip
        try:
            rows = {"agent": judge(agent, deterministic=not self.stochastic)}
            if self.baselines:
                blind = baselines(world.spec.actions, hold=agent.observation.hold)
                rows |= {title: judge(policy) for title, policy in blind.items()}
        finally:
            judge.close()
        say(f"{format_table(rows, {'agent': None})}\n\n{format_details('agent', rows['agent'])}")
        if self.json is not None:
            scores = {title: {place: score.to_json() for place, score in row.items()} for title, row in rows.items()}
            asked = {"agent": str(self.agent), "world": name, "stochastic": self.stochastic}
            write_json(self.json, {**asked, "decisions": agent.steps, "agents": scores})


@dataclass(frozen=True)
class PlayCommand:
    """Write a video of a trained agent in the world, and one in the real game."""

    agent: Annotated[Path, tyro.conf.Positional]  # an agent (.safetensors), or a world that one comes with
    world: str | None = None  # a shipped name, a local folder or a hub id; without it the one that the agent names
    real: bool = False  # film it in the real game, too
    decisions: int = 300  # of the agent, at most: a video ends with its episode
    trust_source: bool = False  # let the real game be a Python module that the world's files name
    out: Path | None = None  # folder of dream.mp4 and real.mp4; without it the agent's own, or this one

    def run(self) -> None:
        """Play and write."""
        from worldsim.policies.video import film

        if self.decisions < 1:
            raise InvalidInput(f"--decisions is {self.decisions}; give 1 or more")
        agent, world, _ = _open(self.agent, self.world)
        own = self.agent.parent if self.agent.suffix == SUFFIX else Path()
        out = own if self.out is None else self.out
        written = film(
            agent, world, out, real=self.real, trust_source=self.trust_source, decisions=self.decisions
        )  # fmt: skip
        print("wrote " + " and ".join(map(str, written)))


@dataclass(frozen=True)
class CompareCommand:
    """See whether the world tells which policies are better: plays them there and in the real game.

    Leaves policies.png and policies.json.
    """

    world: Annotated[str, tyro.conf.Positional]  # a shipped name, a local folder or a hub id
    out: Path  # folder for the figures and the plot
    episodes: int = 32  # of each policy in either place
    policies: tuple[str, ...] = ()  # data policies that look at the frame alone (lane:0.5); none: blind policies
    periods: tuple[int, ...] = (20, 40, 60, 80)  # of blind policies: steps before turning round
    trust_source: bool = False  # let the real game be a Python module that the world's files name
    workers: Annotated[Workers, Flat] = field(default_factory=Workers)

    def run(self) -> None:
        """Play, print and write."""
        from worldsim.evaluate.plots import require_matplotlib
        from worldsim.policies.agreement import compare_policies

        _check_episodes(self.episodes)
        require_matplotlib()
        require_writable(self.out / "policies.json")
        compared = compare_policies(
            World.from_pretrained(self.world),
            episodes=self.episodes,
            periods=self.periods,
            policies=self.policies,
            trust_source=self.trust_source,
            workers=self.workers,
            tell=lambda line: print(line, flush=True),
        )
        say(compared.to_text())
        compared.save(self.out)
        print(f"wrote {self.out}: policies.png, policies.json")


@dataclass(frozen=True)
class ConvertCommand:
    """Write an agent of worldsim 0.1.0, whose .zip can hold any code, in the present format."""

    old: Annotated[Path, tyro.conf.Positional]  # the agent's .zip, its .json beside it
    new: Annotated[Path, tyro.conf.Positional]  # the .safetensors file to write
    allow_pickle: bool = False  # run the code that the .zip may hold: only for files that you trust

    def run(self) -> None:
        """Read and write."""
        from worldsim.policies.agent import convert_agent

        convert_agent(self.old, self.new, allow_pickle=self.allow_pickle)
        print(f"wrote {self.new}")


def agent(
    action: Annotated[
        Annotated[TrainCommand, tyro.conf.subcommand("train")]
        | Annotated[EvaluateCommand, tyro.conf.subcommand("evaluate")]
        | Annotated[PlayCommand, tyro.conf.subcommand("play")]
        | Annotated[CompareCommand, tyro.conf.subcommand("compare")]
        | Annotated[ConvertCommand, tyro.conf.subcommand("convert")],
        tyro.conf.arg(name=""),
    ],
) -> None:
    """Train agents inside a world, evaluate them there and in the real game, film them, compare policies."""
    try:
        import stable_baselines3  # noqa: F401
    except ImportError as error:
        raise MissingDependency(
            'agents need Stable-Baselines3, which is not installed; pip install "worldsim[rl]"'
        ) from error
    action.run()


def _open(named: Path, world: str | None) -> tuple[Agent, World, str]:
    """An agent, the world that it plays in, and that world's name; raises InvalidInput if they do not fit."""
    from worldsim.policies.agent import load_agent

    file = named if named.suffix in (SUFFIX, ".zip") else _agent_of(str(named))
    agent = load_agent(file)
    name = world if world is not None else agent.world if file is named else str(named)
    loaded = World.from_pretrained(name)
    agent.check_world(loaded)
    return agent, loaded, name


def _agent_of(world: str) -> Path:
    """The file of the agent that comes with a world."""
    path = find_world(world) / AGENT
    if not path.exists():
        raise InvalidInput(
            f"world {world!r} comes without an agent; train one (worldsim agent train {world} --out runs/agent), or "
            f"give the {SUFFIX} file of one"
        )
    return path


def _check_episodes(episodes: int) -> None:
    if episodes < 1:
        raise InvalidInput(f"--episodes is {episodes}; give 1 or more")
