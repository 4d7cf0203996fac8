"""A batch of worlds for Stable-Baselines3, which takes no gymnasium vector environment: `WorldVecEnv`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Discrete
from gymnasium.vector import AutoresetMode

from worldsim.envs.infos import by_row
from worldsim.envs.starts import OF_A_START
from worldsim.envs.vector_env import WorldVectorEnv
from worldsim.errors import InvalidInput, MissingDependency
from worldsim.spec import WorldProtocol

try:
    from stable_baselines3.common.vec_env import VecEnv
except ImportError as missing:
    raise MissingDependency('worldsim.envs.sb3 needs Stable-Baselines3; run pip install "worldsim[rl]"') from missing

Indices = int | Iterable[int] | None


class WorldVecEnv(VecEnv):
    """`WorldVectorEnv` in the same-step autoreset mode, in Stable-Baselines3's terms; arguments as there.

    The info of a row whose episode ended has "terminal_observation" and "TimeLimit.truncated"; the row's
    observation is that of the next episode, whose info is in `reset_infos`. `VecMonitor` logs returns.
    Stable-Baselines3 counts discrete actions from 0, and so do the actions here, whatever the world's first one is.

    Example:
        >>> envs = VecMonitor(WorldVecEnv("doom-take-cover", 8))
        >>> PPO("CnnPolicy", envs).learn(2_000)
    """

    def __init__(
        self,
        world: str | WorldProtocol,
        num_envs: int = 1,
        **options: Any,
    ) -> None:
        """`options` are those of `WorldVectorEnv`, but for `autoreset_mode`."""
        self.worlds = WorldVectorEnv(world, num_envs, autoreset_mode=AutoresetMode.SAME_STEP, **options)
        self._actions: np.ndarray | None = None
        space = self.worlds.single_action_space
        self._first = int(space.start) if isinstance(space, Discrete) else 0
        space = Discrete(space.n) if isinstance(space, Discrete) else space
        super().__init__(num_envs, self.worlds.single_observation_space, space)
        self.metadata = self.worlds.metadata

    def reset(self) -> Any:
        """Begin an episode in every row, with the seeds and options given since the last reset, if any."""
        seeds = None if all(seed is None for seed in self._seeds) else self._seeds
        observations, infos = self.worlds.reset(seed=seeds, options=_stack_options(self._options))
        self.reset_infos = by_row(infos, self.num_envs)
        self._reset_seeds()
        self._reset_options()
        return observations

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions for `step_wait`."""
        self._actions = actions + self._first if self._first else actions

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Step every row; observations, rewards (N,) float32, dones (N,) bool, one info a row."""
        observations, rewards, terminations, truncations, vector_infos = self.worlds.step(self._actions)
        dones = terminations | truncations
        infos = by_row(vector_infos, self.num_envs)
        for row in np.flatnonzero(dones).tolist():
            final, observation = infos[row].pop("final_info"), infos[row].pop("final_obs")
            self.reset_infos[row] = infos[row]
            infos[row] = {**final, "terminal_observation": observation}
        for info, cut in zip(infos, (truncations & ~terminations).tolist(), strict=True):
            info["TimeLimit.truncated"] = cut
        return observations, rewards.astype(np.float32), dones, infos

    def close(self) -> None:
        """End the guessing, if there is any; may be called twice."""
        self.worlds.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """The current frame of every row, each (H, W, 3) uint8, in mode "rgb_array"."""
        return self.worlds.render() or [None] * self.num_envs

    def get_attr(self, attr_name: str, indices: Indices = None) -> list[Any]:
        """An attribute of each row asked for, as `WorldVectorEnv.call` gives it."""
        values = self.worlds.get_attr(attr_name)
        return [values[row] for row in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Indices = None) -> None:
        """Set an attribute of the batch; raises InvalidInput for some rows only, since they share it."""
        if set(self._get_indices(indices)) != set(range(self.num_envs)):
            raise InvalidInput(f"{attr_name!r} is shared by all environments of the batch; set it without indices")
        self.worlds.set_attr(attr_name, [value] * self.num_envs)

    def env_method(self, method_name: str, *args: Any, indices: Indices = None, **kwargs: Any) -> list[Any]:
        """What a method gives in each row asked for; the methods are those of `WorldVectorEnv.call`."""
        results = self.worlds.call(method_name, *args, **kwargs)
        return [results[row] for row in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type[Any], indices: Indices = None) -> list[bool]:
        """Always False: rows are no environments that could be wrapped."""
        return [False for _ in self._get_indices(indices)]


def _stack_options(options: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """One dict of options a row -> one dict with the rows as first axis; unknown ones as the first row has them."""
    keys = set(options[0]) & set(OF_A_START)
    if any(set(one) & set(OF_A_START) != keys for one in options):
        raise InvalidInput("the environments have different reset options; give all of them the same keys")
    try:
        return {**options[0], **{key: _stack([one[key] for one in options]) for key in keys}} or None
    except ValueError as error:
        raise InvalidInput(f"reset options of different shapes ({error}); give all rows as many frames") from error


def _stack(values: list[Any]) -> Any:
    """Arrays with the rows as first axis; of dicts of arrays, streams, a dict of these."""
    if isinstance(values[0], dict):
        if any(not isinstance(one, dict) or one.keys() != values[0].keys() for one in values):
            raise InvalidInput("the environments have streams of different names; give all of them the same")
        return {name: np.stack([one[name] for one in values]) for name in values[0]}
    return np.stack(values)
