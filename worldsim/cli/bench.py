"""`worldsim bench`: steps a second, latency, share of the machine's matmul peak."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
import tyro

from worldsim.bench.speculation import bench_speculation, format_speculation
from worldsim.bench.steps import AnyEnv, Endless, bench_world, format_bench, measure_growth, measure_memory
from worldsim.bench.traces import MADE_UP, load_stream
from worldsim.cli.output import say
from worldsim.errors import InvalidInput
from worldsim.io.files import write_json
from worldsim.spec import Decoding, WorldProtocol
from worldsim.speculation import Speculation
from worldsim.world import World

if TYPE_CHECKING:
    from worldsim.envs.observing import Observation


@dataclass(frozen=True)
class BenchOptions:
    """What is measured, and how."""

    world: Annotated[str, tyro.conf.Positional]  # name of a shipped world, folder, or hub id
    num_envs: tuple[int, ...] = (1, 16)  # numbers of environments to step as one batch
    steps: int = 200  # to time with each of them
    observation: Literal["pixels", "latents"] = "pixels"  # what the environments show; latents need no decoding
    between: bool = False  # also decode the frames before the last one of each step
    memory: int = 0  # also play so many steps with resets and report how much the process grows
    growth: int = 0  # also play one episode of so many steps and report how step time and process grow with it
    speculate: bool = False  # measure speculation instead, in one environment, with `steps` steps of every stream
    # how actions follow on each other: held (keys held as a hand might, made up), repeat, random, or a .json file that
    # `worldsim play --trace` wrote
    streams: tuple[str, ...] = ("held", "repeat", "random")
    think: tuple[float, ...] = (0.0, 20.0)  # milliseconds that the caller thinks before a step
    json: Path | None = None  # write the figures here
    threads: int | None = None  # threads that torch computes with; its own choice by default
    compiled: bool = False  # compile the world's steps to machine code, for each number of environments once
    device: str = "auto"  # auto, cpu or cuda

    def __post_init__(self) -> None:
        counts = (("--num-envs", min(self.num_envs, default=0)), ("--steps", self.steps), ("--threads", self.threads))
        for name, value in counts:
            if value is not None and value < 1:
                raise InvalidInput(f"{name} is {value}; give at least 1")
        for name, steps in (("--memory", self.memory), ("--growth", self.growth)):
            if steps < 0:
                raise InvalidInput(f"{name} is {steps}; give a number of steps, or leave it out")
        for ms in self.think:
            if not 0 <= ms < math.inf:
                raise InvalidInput(f"--think {ms} is no time; give milliseconds, 0 or more")

    def check_streams(self) -> None:
        """Raise InvalidInput for streams that cannot be played."""
        if self.steps < 2:
            raise InvalidInput(
                f"--steps is {self.steps}; give at least 2, since the first step of a stream is not timed"
            )
        for name in self.streams:
            if name not in MADE_UP and not (name.endswith(".json") and Path(name).is_file()):
                raise InvalidInput(f"--streams {name!r} is unknown; give {', '.join(MADE_UP)}, or a trace (.json)")

    @property
    def decode(self) -> Decoding:
        """What of a step the environments decode."""
        return "all" if self.between else "frame" if self.observation == "pixels" else "none"


def bench(options: Annotated[BenchOptions, tyro.conf.arg(name="")]) -> None:
    """Time a world's environments end to end: checks, model, decoder, reward, numpy.

    In steady state: the history is full, and endings are ignored so that no reset is among the timed steps.
    With --speculate: what it brings to compute steps ahead of time, with it against without.
    """
    if options.speculate:
        options.check_streams()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    world = World.from_pretrained(options.world, device=options.device)
    make = partial(make_env, observation=options.observation, between=options.between)
    measure = _bench_ahead if options.speculate else _bench_steps
    report, text = measure(world, make, options)
    say(text)
    if options.json is not None:
        write_json(options.json, report)


def _bench_steps(world: World, make: Callable[..., AnyEnv], options: BenchOptions) -> tuple[dict[str, Any], str]:
    """The report of every number of environments, and its text."""
    report = bench_world(world, make, options.num_envs, options.steps, options.decode, compiled=options.compiled)
    if options.memory:
        from worldsim.envs.world_env import WorldEnv  # with the game's own time limit, and so with resets

        served = world.compiled() if options.compiled else world
        report["memory"] = measure_memory(WorldEnv(served), options.memory)
    if options.growth:
        served = world.compiled() if options.compiled else world
        report["growth"] = measure_growth(make_env(Endless(served), 1), options.growth)
    return report, format_bench(report)


def _bench_ahead(world: World, make: Callable[..., AnyEnv], options: BenchOptions) -> tuple[dict[str, Any], str]:
    """The report of one environment with speculation and without, and its text."""
    served = world.compiled() if options.compiled else world
    report = bench_speculation(
        served,
        lambda world, speculate: make(world, 1, speculate=speculate),
        {Path(name).stem: load_stream(name, served.spec, options.steps) for name in options.streams},
        options.think,
    )
    report |= {"compiled": options.compiled, "decoded": options.decode}
    return report, format_speculation(report)


def make_env(
    world: WorldProtocol,
    count: int,
    observation: Observation = "pixels",
    between: bool = False,
    speculate: Speculation | None = None,
) -> AnyEnv:
    """One environment, or a vector of them, without a time limit."""
    from worldsim.envs.vector_env import WorldVectorEnv
    from worldsim.envs.world_env import WorldEnv

    options: dict[str, Any] = {"observation": observation, "between": between, "speculate": speculate}
    if count == 1:
        return WorldEnv(world, max_episode_steps=None, **options)
    return WorldVectorEnv(world, count, max_episode_steps=None, **options)
