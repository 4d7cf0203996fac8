"""`worldsim bench`: steps a second, latency, share of the machine's matmul peak."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import tyro

from worldsim.bench import AnyEnv, bench_world, format_bench, measure_memory
from worldsim.errors import InvalidInput
from worldsim.evaluate.table import save_json
from worldsim.spec import WorldProtocol
from worldsim.world import World


def bench(
    world: Annotated[str, tyro.conf.Positional],
    /,
    num_envs: tuple[int, ...] = (1, 16),
    steps: int = 200,
    memory: int = 0,
    json: Path | None = None,
    threads: int | None = None,
    device: str = "auto",
) -> None:
    """Time a world's environments end to end: checks, model, decoder, reward, numpy.

    In steady state: the history is full, and endings are ignored so that no reset is among the timed steps.

    Args:
        world: name of a shipped world, folder, or hub id.
        num_envs: numbers of environments to step as one batch.
        steps: steps to time with each of them.
        memory: also play so many steps with resets and report how much the process grows.
        json: write the figures here.
        threads: threads that torch computes with (default: torch's own choice).
        device: auto, cpu or cuda.
    """
    for name, value in (("--num-envs", min(num_envs, default=0)), ("--steps", steps), ("--threads", threads)):
        if value is not None and value < 1:
            raise InvalidInput(f"{name} is {value}; give at least 1")
    if memory < 0:
        raise InvalidInput(f"--memory is {memory}; give a number of steps, or leave it out")
    if threads is not None:
        torch.set_num_threads(threads)
    loaded = World.from_pretrained(world, device=device)
    report = bench_world(loaded, make_env, num_envs, steps)
    if memory:
        from worldsim.envs.world_env import WorldEnv

        report["memory"] = measure_memory(WorldEnv(loaded), memory)
    print(format_bench(report))
    if json is not None:
        save_json(json, report)


def make_env(world: WorldProtocol, count: int) -> AnyEnv:
    """One environment, or a vector of them, without a time limit."""
    from worldsim.envs.vector_env import WorldVectorEnv
    from worldsim.envs.world_env import WorldEnv

    if count == 1:
        return WorldEnv(world, max_episode_steps=None)
    return WorldVectorEnv(world, count, max_episode_steps=None)
