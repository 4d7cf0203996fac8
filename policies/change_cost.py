"""Agents that do not turn round more often than they must: `ChangeCost`."""

from __future__ import annotations

import math

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from worldsim.errors import InvalidInput


class ChangeCost(VecEnvWrapper):
    """Takes `cost` out of the reward for every action that is not the one before; for continuous ones, `cost` times
    the squared length of the change.

    What a change brings about is what a world is least sure of, and an agent soon lives by such errors. A cost of
    changes keeps policies that work in a simulator working outside of it (Rudin et al., 2022, call it action rate).
    The first action of an episode is free. Raises InvalidInput for a `cost` below 0.
    """

    def __init__(self, venv: VecEnv, cost: float) -> None:
        super().__init__(venv)
        if not 0 <= cost < math.inf:
            raise InvalidInput(f"the cost of a change is {cost}; give 0 or more, in units of the reward")
        self.cost = cost
        self._last: np.ndarray | None = None
        self._fresh = np.ones(self.num_envs, bool)  # rows that begin an episode
        self._changes = np.zeros(self.num_envs, np.float32)

    def reset(self) -> np.ndarray:
        """Begin an episode in every row."""
        self._fresh[:] = True
        return np.asarray(self.venv.reset())

    def step_async(self, actions: np.ndarray) -> None:
        """Take the actions, and note how far they are from those before."""
        last = actions if self._last is None else self._last
        if isinstance(self.action_space, gym.spaces.Discrete):
            change = (actions != last).astype(np.float32)
        else:
            change = np.square(actions - last).reshape(self.num_envs, -1).sum(axis=1)
        self._changes = np.where(self._fresh, 0, change)
        self._last = actions.copy()
        self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Step every row."""
        observations, rewards, dones, infos = self.venv.step_wait()
        self._fresh = dones.astype(bool)
        return observations, (rewards - self.cost * self._changes).astype(np.float32), dones, infos
