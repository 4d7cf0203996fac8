"""A wrong world, in which no agent can learn what helps in the right one: its actions do something else each time."""

from __future__ import annotations

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from worldsim.errors import InvalidInput


class ShuffledActions(VecEnvWrapper):
    """Takes another random permutation of the discrete actions in every row at every step."""

    def __init__(self, venv: VecEnv, *, seed: int = 0) -> None:
        super().__init__(venv)
        count = getattr(venv.action_space, "n", None)
        if count is None:
            raise InvalidInput(f"actions {venv.action_space} have no order to shuffle; use a world of discrete actions")
        self._count = int(count)
        self._rng = np.random.default_rng(seed)

    def reset(self) -> np.ndarray:
        """Begin an episode in every row."""
        return np.asarray(self.venv.reset())

    def step_async(self, actions: np.ndarray) -> None:
        """Give every row an action that the agent's does not decide."""
        orders = self._rng.permuted(np.tile(np.arange(self._count), (self.num_envs, 1)), axis=1)
        self.venv.step_async(orders[np.arange(self.num_envs), actions])

    def step_wait(self) -> VecEnvStepReturn:
        """Step every row."""
        return self.venv.step_wait()
