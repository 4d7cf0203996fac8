"""Episodes of a robot policy in a world, written as an episode store: data that no simulator was needed for."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worldsim.data.episode_writer import EpisodeWriter
from worldsim.data.episodes import Episodes, EpisodesMeta, usual_streams
from worldsim.policies.robot.protocol import MakePolicy, chosen, make_batch
from worldsim.policies.robot.rollouts import begin, check_world, own_starts, seeded, tasks_of
from worldsim.world import World

BATCH = 16  # episodes at a time


@torch.no_grad()
def dream_store(
    world: World, make: MakePolicy, out: Path, *, episodes: int, steps: int, seed: int = 0,
    tasks: Sequence[str] = (), policy: str = "",
) -> Episodes:  # fmt: skip
    """Play a policy for `episodes` of `steps` in the world, tasks in turn, and write them to the store `out`.

    Episodes begin as recorded ones did, with the seeds from `seed` on. Raises InvalidInput for a world without success,
    or a folder that is not empty.
    """
    check_world(world)
    names = tuple(tasks) or tasks_of(world.spec)
    with EpisodeWriter(out, _meta(world, policy, seed)) as writer, torch.random.fork_rng(devices=[]):
        for number, task in enumerate(names):
            count = len(range(number, episodes, len(names)))
            starts = own_starts(world, task, count, seed) if count else None
            for first in range(0, count, BATCH):
                assert starts is not None
                part = starts.rows(first, first + BATCH)
                for rows in _play(world, make, part, steps):
                    for row in rows:
                        writer.append(row)
                    writer.end_episode()
    return Episodes.open(out)


def _play(world: World, make: MakePolicy, starts: Any, steps: int) -> list[list[dict[str, Any]]]:
    """The rows of each episode of a batch."""
    torch.manual_seed(starts.seeds[0])  # for policies that draw from torch's generator
    policy, state, count = seeded(make(), starts.seeds), begin(world, starts), len(starts.seeds)
    spec, actions = world.spec, world.spec.actions.lowest(count)
    frames, reward = world.render(state), np.zeros(count, np.float32)
    rows: list[list[dict[str, Any]]] = [[] for _ in range(count)]
    for t in range(steps + 1):
        streams = world.streams(state)
        for i, episode in enumerate(rows):
            episode.append({
                "rgb": frames[i].copy(), "action": actions[i].copy(), "reward": reward[i], "terminated": False,
                "truncated": t == steps, **{name: values[i].copy() for name, values in streams.items()},
            })  # fmt: skip
        if t < steps:
            actions = chosen(policy, make_batch(spec, frames, streams, [starts.task] * count), spec)
            state, step = world.step(state, actions, decode="frame")
            frames, reward = step.frame, step.reward
    return rows


def _meta(world: World, policy: str, seed: int) -> EpisodesMeta:
    spec, source = world.spec, world.config.source
    streams = {
        **usual_streams(spec.height, spec.width, spec.actions),
        **spec.streams,
    }
    return EpisodesMeta(
        source.name, spec.actions, streams, spec.steps_per_second, source.frame_skip, f"{policy} in a dream", seed,
        source.max_episode_steps, spec.pixel_aspect, source_parameters=dict(source.parameters),
        creator=f"worldsim {version('worldsim')}",
    )  # fmt: skip
