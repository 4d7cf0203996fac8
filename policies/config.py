"""How agents are trained and evaluated: settings with types, which the command line shows; needs no SB3."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from worldsim.errors import InvalidInput


def _at_least(name: str, value: int | None, least: int) -> None:
    if value is not None and value < least:
        raise InvalidInput(f"--{name} is {value}; give {least} or more")


@dataclass(frozen=True)
class Effort:
    """How long an agent is trained, and how often it plays to be evaluated."""

    minutes: float = 20.0
    num_envs: int = 32
    stages: int = 6
    episodes: int = 100


QUICK = Effort(minutes=1.0, num_envs=16, stages=1, episodes=4)


@dataclass(frozen=True)
class DreamConfig:
    """The world as it is in training. All but the first two are against agents that live by its errors."""

    dream_steps: int = 400  # steps of the world after which an episode is cut off in training
    start: str = "anywhere"  # where episodes begin: "anywhere" in a recorded one, or at its "beginning"
    temperature: float | None = None  # of the noise in training: above 1 the world is less predictable
    noise_shaping: float | None = None  # rate in training: above the world's own, rare events come more often
    ending_cost: float | None = None  # episodes do not end in training: the chance of an ending costs so much reward
    compiled: bool = False  # compile the world's steps first, some minutes, once

    def __post_init__(self) -> None:
        _at_least("dream-steps", self.dream_steps, 1)

    def used(self) -> list[str]:
        """The options that were set and that the real game has not."""
        names = ("ending_cost", "noise_shaping", "temperature")
        return [name for name in names if getattr(self, name) is not None] + ["compiled"] * self.compiled


@dataclass(frozen=True)
class TrainConfig:
    """The budget of PPO, and what becomes of its agents. None stands for a value of `Effort`, or of `QUICK`."""

    minutes: float | None = None  # to train each agent, 20 by default
    steps: int | None = None  # decisions of the agent to train for, instead of minutes
    real: int | None = None  # train in the real game instead, for so many steps of it
    num_envs: int | None = None  # environments in one batch, 32 by default; 8 at most of the real game
    stages: int | None = None  # parts of the training between which the agent is evaluated, 6 by default
    change_cost: float | None = None  # an action that is not the one before costs so much reward in training
    shuffled_actions: bool = False  # shuffle the actions at every step of training: nothing of use can be learned
    seed: int = 0  # of the first agent
    seeds: int = 1  # agents to train, with the seeds that follow
    from_agent: Path | None = None  # an agent (.safetensors) to train on, in a world with the same tokenizer
    resume: bool = False  # go on after an interruption
    quick: bool = False  # see whether all of it runs: by default 1 minute, 16 environments, 1 stage, 4 episodes
    dream: Annotated[DreamConfig, tyro.conf.arg(name="")] = field(default_factory=DreamConfig)

    def __post_init__(self) -> None:
        for name in ("steps", "real", "num_envs", "stages", "seeds"):
            _at_least(name.replace("_", "-"), getattr(self, name), 1)
        if self.minutes is not None and not 0 < self.minutes < math.inf:
            raise InvalidInput(f"--minutes {self.minutes} is no time; give a number above 0")
        if self.real is not None and (unfit := self.dream.used()):
            raise InvalidInput(f"--{unfit[0].replace('_', '-')} is of dreams; leave it out with --real")


@dataclass(frozen=True)
class EvaluateConfig:
    """How agents are evaluated."""

    episodes: int | None = None  # whole ones, in the world and in the real game, 100 by default
    stochastic: bool = False  # agents draw their actions; without it they take the likeliest ones
    baselines: bool = False  # evaluate random actions and constant ones, too
    real_steps: int | None = None  # steps of the real game that the world was trained on, for the table
    no_real: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False  # leave out the real game
    trust_source: bool = False  # let the real game be a Python module that the world's files name

    def __post_init__(self) -> None:
        _at_least("episodes", self.episodes, 1)


def effort(train: TrainConfig, evaluate: EvaluateConfig) -> Effort:
    """What was asked for, and the defaults elsewhere."""
    asked = {
        "minutes": train.minutes, "num_envs": train.num_envs, "stages": train.stages, "episodes": evaluate.episodes,
    }  # fmt: skip
    chosen: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    return replace(QUICK if train.quick else Effort(), **chosen)
