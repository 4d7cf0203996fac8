"""What `worldsim bench --speculate` plays: streams by name, from traces or agents, and the environments for them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from worldsim.cli.output import require_writable
from worldsim.errors import InvalidInput
from worldsim.evaluate.plots import require_matplotlib
from worldsim.spec import WorldProtocol
from worldsim.speculation import Speculation
from worldsim.streams import NAMED, Stream, named_stream, trace_stream
from worldsim.world import World

if TYPE_CHECKING:
    from worldsim.envs.observing import Observation


def check_speculation_options(
    streams: Sequence[str], think: Sequence[float], depths: Sequence[int], steps: int, plot: Path | None
) -> None:
    """Raise InvalidInput for what cannot be measured, before anything is."""
    if steps < 2:
        raise InvalidInput(f"--steps is {steps}; give at least 2, since the first step of a stream is not timed")
    for name in streams:
        path = Path(name)
        if name not in NAMED and not (path.suffix in (".json", ".safetensors", ".zip") and path.is_file()):
            known = ", ".join(NAMED)
            raise InvalidInput(
                f"--streams {name!r} is unknown; give {known}, a trace (.json) or an agent (.safetensors)"
            )
    for ms in think:
        if not (ms >= 0 and math.isfinite(ms)):
            raise InvalidInput(f"--think {ms} is no time; give milliseconds, 0 or more")
    if min(depths, default=0) < 1:
        raise InvalidInput(f"--depths is {' '.join(map(str, depths))}; give numbers of steps, at least 1")
    if plot is not None:
        if plot.suffix != ".png":
            raise InvalidInput(f"--plot {str(plot)!r} does not end in .png; give it that ending")
        require_matplotlib()
        require_writable(plot)


def choose_stream(name: str, world: World, steps: int) -> Stream:
    """The stream of that name, `steps` long."""
    if name in NAMED:
        return named_stream(name, world.spec, steps)
    path = Path(name)
    return trace_stream(path, world.spec, steps) if path.suffix == ".json" else agent_stream(path, world, steps)


def agent_stream(path: Path, world: World, steps: int) -> Stream:
    """What an agent does in `steps` decisions in the dream; each is held for as many steps as it learned with."""
    from worldsim.policies.agent import load_agent
    from worldsim.policies.agent_envs import dream_envs

    agent = load_agent(path)
    agent.check_world(world)
    envs = dream_envs(world, 1, agent.observation)
    observation, actions = envs.reset(), []
    for _ in range(steps):
        action, _ = agent.predict(observation, deterministic=True)  # type: ignore[arg-type]
        actions.append(action[0])
        observation, *_ = envs.step(action)
    envs.close()
    return Stream(path.stem, np.stack(actions), agent.observation.hold)


def make_guessing_env(
    world: WorldProtocol,
    hold: int,
    speculate: Speculation | None,
    observation: Observation = "pixels",
    between: bool = False,
) -> gym.Env[Any, Any]:
    """One environment without a time limit, each action of which is held for `hold` steps of the world."""
    from worldsim.envs.held import HeldWorld
    from worldsim.envs.world_env import WorldEnv

    held = world if hold == 1 else HeldWorld(world, hold)
    options: dict[str, Any] = {"observation": observation, "between": between, "speculate": speculate}
    return WorldEnv(held, max_episode_steps=None, **options)
