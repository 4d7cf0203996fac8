"""`worldsim bench`: steps a second, latency, share of the machine's matmul peak."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import torch
import tyro

from worldsim.bench import AnyEnv, bench_world, format_bench, measure_memory
from worldsim.bench_speculation import bench_speculation, format_speculation
from worldsim.cli.bench_streams import check_speculation_options, choose_stream, make_guessing_env
from worldsim.cli.output import say
from worldsim.errors import InvalidInput
from worldsim.evaluate.table import save_json
from worldsim.spec import Pictures, WorldProtocol
from worldsim.speculation_plot import save_speculation_plot
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
    depths: tuple[int, ...] = (3,),
    adapt: bool = True,
    plot: Path | None = None,
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
        between: also decode the pictures before the last one of each step.
        memory: also play so many steps with resets and report how much the process grows.
        speculate: measure speculation instead, in one environment, with `steps` steps of every stream.
        streams: how actions follow on each other: held (keys held as a hand might, made up), repeat, random, a .json
            file that `worldsim play --trace` wrote, or the .safetensors of an agent.
        think: milliseconds that the caller thinks before a step.
        depths: greatest numbers of steps that are guessed ahead.
        adapt: whether hits and idle time decide what is guessed; without it, all that may come is.
        plot: write a picture of the figures of speculation to this .png file.
        json: write the figures here.
        threads: threads that torch computes with (default: torch's own choice).
        compiled: compile the world's steps to machine code, for each number of environments once.
        device: auto, cpu or cuda.
    """
    _check_options(num_envs, steps, memory, threads)
    if plot is not None and not speculate:
        raise InvalidInput("--plot draws figures of speculation; give --speculate too, or leave it out")
    if threads is not None:
        torch.set_num_threads(threads)
    if speculate:
        check_speculation_options(streams, think, depths, steps, plot)
    loaded = World.from_pretrained(world, device=device)
    served = loaded.compiled() if compiled else loaded
    pictures: Pictures = "all" if between else "frame" if observation == "pixels" else "none"
    if speculate:
        callers = [choose_stream(name, served, steps) for name in streams]
        make_one = partial(make_guessing_env, observation=observation, between=between)
        report = bench_speculation(served, make_one, callers, think, depths, adapt=adapt, pictures=pictures)
        report["compiled"] = compiled
        say(format_speculation(report))
        if plot is not None:
            save_speculation_plot(plot, report)
    else:
        make = partial(make_env, observation=observation, between=between)
        report = bench_world(loaded, make, num_envs, steps, pictures, compiled=compiled)
        if memory:
            from worldsim.envs.world_env import WorldEnv  # with the game's own time limit, and so with resets

            report["memory"] = measure_memory(WorldEnv(served), memory)
        say(format_bench(report))
    if json is not None:
        save_json(json, report)


def _check_options(num_envs: tuple[int, ...], steps: int, memory: int, threads: int | None) -> None:
    for name, value in (("--num-envs", min(num_envs, default=0)), ("--steps", steps), ("--threads", threads)):
        if value is not None and value < 1:
            raise InvalidInput(f"{name} is {value}; give at least 1")
    if memory < 0:
        raise InvalidInput(f"--memory is {memory}; give a number of steps, or leave it out")


def make_env(world: WorldProtocol, count: int, observation: Observation = "pixels", between: bool = False) -> AnyEnv:
    """One environment, or a vector of them, without a time limit."""
    from worldsim.envs.vector_env import WorldVectorEnv
    from worldsim.envs.world_env import WorldEnv

    if count == 1:
        return WorldEnv(world, observation=observation, between=between, max_episode_steps=None)
    return WorldVectorEnv(world, count, observation=observation, between=between, max_episode_steps=None)
