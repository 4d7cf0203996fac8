"""The environments that agents train and are judged in: a world's dream and the real game, with one interface."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper, VecFrameStack, VecMonitor

from worldsim.envs.held import HeldWorld
from worldsim.envs.sb3 import WorldVecEnv
from worldsim.envs.soft_endings import SoftEndings
from worldsim.envs.source_env import SourceEnv
from worldsim.envs.sources.matching import matching_source
from worldsim.envs.worlds import DEFAULT_START, TimeLimit, load_world
from worldsim.policies.observation import ObservationConfig, Observe
from worldsim.spec import WorldProtocol, WorldSpec
from worldsim.world import World
from worldsim.wrappers import held_steps


def dream_envs(
    world: WorldProtocol,
    num_envs: int,
    observation: ObservationConfig,
    *,
    max_episode_steps: TimeLimit = "world",
    start: str = DEFAULT_START,
    temperature: float | None = None,
    ending_cost: float | None = None,
    seed: int = 0,
    between: bool = False,
) -> VecEnv:
    """`num_envs` dreams in one batch, seeds `seed`, `seed` + 1, …; returns and lengths are in the infos ("episode").

    `max_episode_steps` counts steps of the world, each action being held for `observation.hold` of them. `between`
    puts the frames before the last one of a step into the infos, for videos. With `ending_cost` dreams do not end but
    by that limit: the chance of an ending costs so much reward instead (`SoftEndings`).
    """
    drawn = load_world(world, start=start, temperature=temperature)
    if ending_cost is not None:
        drawn = SoftEndings(drawn, ending_cost)
    if isinstance(max_episode_steps, int):
        max_episode_steps = held_steps(max_episode_steps, observation.hold)
    envs: VecEnv = WorldVecEnv(
        HeldWorld(drawn, observation.hold),
        num_envs,
        observation=observation.kind,
        between=between,
        start=start,
        max_episode_steps=max_episode_steps,
        render_mode="rgb_array",
    )
    envs.seed(seed)
    envs = VecMonitor(envs)
    see = observation.see(None) if observation.kind == "pixels" else partial(_on_grid, world.spec)
    return stacked(ObservationWrapper(envs, observation.space(world.spec), see), observation)


def real_envs(
    world: World,
    num_envs: int,
    observation: ObservationConfig,
    *,
    seed: int = 0,
    between: bool = False,
    trust_source: bool = False,
    source: str | None = None,
) -> VecEnv:
    """`num_envs` of the real game that `world` was recorded from: same actions, clock, time limit, observations.

    `source` names another game of the same frames, actions and clock instead, with its own settings: test levels, say.

    Raises MissingDependency where the simulator is not installed, InvalidInput where it does not fit the world, or is
    in a module of Python that the world's files name, which is imported only with `trust_source`.
    """
    config = world.config.source

    def make() -> gym.Env[Any, Any]:
        game = matching_source(
            source or config.name, config.frame_skip, world.spec,
            parameters=None if source else config.parameters, trust_source=trust_source,
        )  # fmt: skip
        env = SourceEnv(game, hold=observation.hold, between=between)
        first, n = world.spec.actions.start, world.spec.actions.n
        # Agents count actions from 0, as `WorldVecEnv` does.
        return gym.wrappers.TransformAction(env, lambda a: a + first, gym.spaces.Discrete(n)) if first else env

    envs: VecEnv = DummyVecEnv([make] * num_envs)
    envs.seed(seed)
    envs = ObservationWrapper(VecMonitor(envs), observation.space(world.spec), observation.see(world))
    return stacked(envs, observation)


def _on_grid(spec: WorldSpec, latents: np.ndarray) -> np.ndarray:
    """Latents as environments show them (N, C * h * w) -> (N, C, h, w)."""
    assert spec.latent_shape is not None
    return latents.reshape(-1, *spec.latent_shape)


class ObservationWrapper(VecEnvWrapper):
    """Shows an agent the frames of its environments in its own way."""

    def __init__(self, venv: VecEnv, space: gym.spaces.Box, see: Observe) -> None:
        super().__init__(venv, observation_space=space)
        self._see = see

    def reset(self) -> np.ndarray:
        """Begin an episode in every row."""
        return self._see(np.asarray(self.venv.reset()))

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Step every row."""
        frames, rewards, dones, infos = self.venv.step_wait()
        for row in np.flatnonzero(dones).tolist():
            if "terminal_observation" in infos[row]:
                infos[row]["terminal_observation"] = self._see(infos[row]["terminal_observation"][None])[0]
        return self._see(np.asarray(frames)), rewards, dones, infos


def stacked(venv: VecEnv, observation: ObservationConfig) -> VecEnv:
    """The environments with the last observations together; before the first one of an episode stand zeros."""
    if observation.stack == 1:
        return venv
    return VecFrameStack(venv, observation.stack, channels_order=observation.channels_order)
