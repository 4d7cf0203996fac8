"""`worldsim bench`: steps a second, latency, share of the machine's matmul peak."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
import tyro

from worldsim.bench.speculation import bench_speculation, format_speculation
from worldsim.bench.steps import AnyEnv, bench_world, format_bench, measure_memory
from worldsim.bench.traces import MADE_UP, load_stream
from worldsim.cli.output import say
from worldsim.errors import InvalidInput
from worldsim.io.files import write_json
from worldsim.spec import Decoding, WorldProtocol
from worldsim.speculation import Speculation
from worldsim.world import World

if TYPE_CHECKING:
    from worldsim.envs.observing import Observation


def bench(
    world: Annotated[str, tyro.conf.Positional],
    /,
    num_envs: tuple[int, ...] = (1, 16),
    steps: int = 200,
    observation: Literal["pixels", "latents"] = "pixels",
    between: bool = False,
    memory: int = 0,
    speculate: bool = False,
    streams: tuple[str, ...] = ("held", "repeat", "random"),
    think: tuple[float, ...] = (0.0, 20.0),
    json: Path | None = None,
    threads: int | None = None,
    compiled: bool = False,
    device: str = "auto",
) -> None:
    """Time a world's environments end to end: checks, model, decoder, reward, numpy.

    In steady state: the history is full, and endings are ignored so that no reset is among the timed steps.
    With --speculate: what it brings to compute steps ahead of time, with it against without.

    Args:
        world: name of a shipped world, folder, or hub id.
        num_envs: numbers of environments to step as one batch.
        steps: steps to time with each of them.
        observation: what the environments show; latents need no decoding.
        between: also decode the frames before the last one of each step.
        memory: also play so many steps with resets and report how much the process grows.
        speculate: measure speculation instead, in one environment, with `steps` steps of every stream.
        streams: how actions follow on each other: held (keys held as a hand might, made up), repeat, random, or a
            .json file that `worldsim play --trace` wrote.
        think: milliseconds that the caller thinks before a step.
        json: write the figures here.
        threads: threads that torch computes with (default: torch's own choice).
        compiled: compile the world's steps to machine code, for each number of environments once.
        device: auto, cpu or cuda.
    """
    _check_options(num_envs, steps, memory, threads)
    if threads is not None:
        torch.set_num_threads(threads)
    if speculate:
        _check_callers(streams, think, steps)
    loaded = World.from_pretrained(world, device=device)
    served = loaded.compiled() if compiled else loaded
    decode: Decoding = "all" if between else "frame" if observation == "pixels" else "none"
    make = partial(make_env, observation=observation, between=between)
    if speculate:
        report = bench_speculation(
            served,
            lambda world, speculate: make(world, 1, speculate=speculate),
            {Path(name).stem: load_stream(name, served.spec, steps) for name in streams},
            think,
        )
        report |= {"compiled": compiled, "decoded": decode}
        say(format_speculation(report))
    else:
        report = bench_world(loaded, make, num_envs, steps, decode, compiled=compiled)
        if memory:
            from worldsim.envs.world_env import WorldEnv  # with the game's own time limit, and so with resets

            report["memory"] = measure_memory(WorldEnv(served), memory)
        say(format_bench(report))
    if json is not None:
        write_json(json, report)


def _check_options(num_envs: tuple[int, ...], steps: int, memory: int, threads: int | None) -> None:
    for name, value in (("--num-envs", min(num_envs, default=0)), ("--steps", steps), ("--threads", threads)):
        if value is not None and value < 1:
            raise InvalidInput(f"{name} is {value}; give at least 1")
    if memory < 0:
        raise InvalidInput(f"--memory is {memory}; give a number of steps, or leave it out")


def _check_callers(streams: tuple[str, ...], think: tuple[float, ...], steps: int) -> None:
    if steps < 2:
        raise InvalidInput(f"--steps is {steps}; give at least 2, since the first step of a stream is not timed")
    for name in streams:
        if name not in MADE_UP and not (name.endswith(".json") and Path(name).is_file()):
            raise InvalidInput(f"--streams {name!r} is unknown; give {', '.join(MADE_UP)}, or a trace (.json)")
    for ms in think:
        if not 0 <= ms < math.inf:
            raise InvalidInput(f"--think {ms} is no time; give milliseconds, 0 or more")


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
