"""A robot's world as LeRobot's evaluation wants its environments: `RobotEnv`."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

from worldsim.envs.world_env import WorldEnv
from worldsim.errors import InvalidInput
from worldsim.policies.robot.protocol import STATE, SUCCESS, TASK
from worldsim.policies.robot.rollouts import check_world, tasks_of
from worldsim.world import World

MOST_RESETS = 1000  # until a start of the task is found


class RobotEnv(gym.Env[dict[str, Any], np.ndarray]):
    """A world behind the names that LeRobot's rollout function (release 0.4 to 0.6) looks for.

    Observations are a dict: "pixels" (H, W, 3) uint8, or a dict of cameras where the world has several, "agent_pos"
    (D,) and "environment_state" (E,) float32. An episode ends with its success, and the info has "is_success". `task`
    is one of the world's tasks; None plays the one that a recorded start is of. Actions are clipped to their bounds.
    For `final_info` put many into `gymnasium.vector.SyncVectorEnv(..., autoreset_mode=AutoresetMode.SAME_STEP)`.

    Example:
        >>> env = RobotEnv("runs/metaworld/world", task="reach")
        >>> observation, info = env.reset(seed=0, options={"lerobot_new_rollout": True})
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 30}  # type: ignore[misc]

    def __init__(self, world: str | World, *, task: str | None = None, render_mode: str | None = "rgb_array") -> None:
        self.env = WorldEnv(world, render_mode="rgb_array", clip_actions=True)
        made = self.env.world
        if not isinstance(made, World):
            raise InvalidInput(f"a {type(made).__name__} is no world of ours; give a world's name or a World")
        check_world(made)
        if task is not None and task not in tasks_of(made.spec):
            known = ", ".join(tasks_of(made.spec))
            raise InvalidInput(f"world {made.spec.name!r} knows no task {task!r}; it knows {known}")
        streams = made.spec.streams
        names = tuple(sorted(name for name, spec in streams.items() if spec.kind == "vector" and name != STATE))
        self.world, self.task, self._vectors, self.render_mode = made, task, names, render_mode
        self.task_description = task or made.spec.name
        self._max_episode_steps = self.env.max_episode_steps or MOST_RESETS
        self.metadata = {**type(self).metadata, "render_fps": self.env.metadata["render_fps"]}  # type: ignore[misc]
        self.action_space = self.env.action_space
        self.observation_space = self._space()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin an episode of the task; options that are LeRobot's own mean nothing here."""
        super().reset(seed=seed)
        frame, info = self.env.reset(seed=seed)
        for _ in range(MOST_RESETS):
            task = self._task()
            if self.task is None or task == self.task:
                self.task_description = task or self.world.spec.name
                return self._observation(frame), {**info, "is_success": False}
            frame, info = self.env.reset()  # the seed's next episode
        raise InvalidInput(f"world {self.world.spec.name!r} has no recorded start of task {self.task!r}; give another")

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Take one action; success terminates the episode."""
        frame, reward, terminated, truncated, info = self.env.step(action)
        success = bool(info[SUCCESS])
        return self._observation(frame), reward, terminated or success, truncated, {**info, "is_success": success}

    def render(self) -> np.ndarray | None:
        """The current frame (H, W, 3) uint8."""
        return self.env.render()

    def close(self) -> None:
        """Close the environment inside."""
        self.env.close()

    def _values(self) -> dict[str, np.ndarray]:
        return self.world.streams(self.env._now.state)

    def _task(self) -> str:
        streams = self.world.spec.streams
        return streams[TASK].names[int(self._values()[TASK][0])] if TASK in streams else ""

    def _observation(self, frame: np.ndarray) -> dict[str, Any]:
        cameras, values = self.world.spec.cameras, self._values()
        pixels: Any = frame
        if cameras:
            pixels = dict(zip(cameras, np.split(frame, len(cameras)), strict=True))
        observation: dict[str, Any] = {"pixels": pixels}
        if STATE in values:
            observation["agent_pos"] = values[STATE][0].reshape(-1).astype(np.float32)
        if self._vectors:
            parts = [values[name][0].reshape(-1) for name in self._vectors]
            observation["environment_state"] = np.concatenate(parts).astype(np.float32)
        return observation

    def _space(self) -> gym.spaces.Dict:
        spec = self.world.spec
        rows = spec.height // max(len(spec.cameras), 1)
        image = gym.spaces.Box(0, 255, (rows, spec.width, 3), np.uint8)
        pixels = gym.spaces.Dict(dict.fromkeys(spec.cameras, image)) if spec.cameras else image
        parts: dict[str, gym.spaces.Space[Any]] = {"pixels": pixels}
        if STATE in spec.streams:
            parts["agent_pos"] = spec.streams[STATE].to_space()
        if self._vectors:
            bounds = [spec.streams[name].bounds() for name in self._vectors]
            low, high = (np.concatenate([one[end].reshape(-1) for one in bounds]) for end in (0, 1))
            parts["environment_state"] = gym.spaces.Box(low.astype(np.float32), high.astype(np.float32))
        return gym.spaces.Dict(parts)
