"""Any gymnasium environment with `rgb_array` rendering as a source."""

from __future__ import annotations

import re
from typing import Any

import gymnasium as gym
import numpy as np
from PIL import Image

from worldsim.envs.sources.base import Row, SourceSpec, check_discrete
from worldsim.errors import InvalidAction, InvalidInput, InvalidState, MissingDependency
from worldsim.spec import ActionSpec

DEFAULT_FPS = 30.0
ATARI_FPS = 60.0


class GymSource:
    """Steps a gymnasium environment and shows its rendered picture, area-averaged to (height, width).

    Actions are discrete, or a box of bounded floats of one dimension. Raises InvalidInput for an id that
    gymnasium does not know, an environment without `rgb_array` rendering, or another kind of action.
    """

    def __init__(self, env_id: str, *, height: int = 64, width: int = 64) -> None:
        if height < 1 or width < 1:
            raise InvalidInput(f"pictures of {height} x {width} pixels cannot be made; give at least 1 x 1")
        self._env = _make(env_id)
        space = self._env.action_space
        self.spec = SourceSpec(
            name=f"gym:{env_id}",
            height=height,
            width=width,
            actions=_action_spec(env_id, self._env),
            fps=_steps_per_second(self._env),
            max_episode_steps=self._env.spec.max_episode_steps if self._env.spec else None,
            parameters={"env_id": env_id, "height": height, "width": width},
        )
        self._first = int(space.start) if isinstance(space, gym.spaces.Discrete) else 0
        self._picture: np.ndarray | None = None
        self._running = False

    def reset(self, seed: int) -> Row:
        """Start the episode that `seed` (taken modulo 2**31) names."""
        self._env.reset(seed=seed % 2**31)
        self._running = True
        self._picture = self._render()
        return Row(rgb=self._picture)

    def step(self, action: int | np.ndarray) -> Row:
        """Play one action."""
        if not self._running:
            raise InvalidState("the episode is over or has not begun; call reset(seed) first")
        if self.spec.actions.discrete:
            played: Any = check_discrete(action, self.spec.actions.n) + self._first
        else:
            played = np.asarray(action, self._env.action_space.dtype)
        if not self._env.action_space.contains(played):
            raise InvalidAction(f"action {action!r} is outside {self._env.action_space}; give one that is inside")
        _, reward, terminated, truncated, _ = self._env.step(played)
        self._running = not (terminated or truncated)
        self._picture = self._render()
        return Row(self._picture, float(reward), bool(terminated), bool(truncated))

    def render(self) -> np.ndarray:
        """The current picture (H, W, 3) uint8."""
        if self._picture is None:
            raise InvalidState("there is no picture before the first reset; call reset(seed) first")
        return self._picture.copy()

    def close(self) -> None:
        """Close the environment."""
        self._env.close()

    def _render(self) -> np.ndarray:
        picture = np.asarray(self._env.render())
        size = (self.spec.width, self.spec.height)
        return np.array(Image.fromarray(picture).convert("RGB").resize(size, Image.Resampling.BOX))


def _make(env_id: str) -> gym.Env[Any, Any]:
    if env_id.startswith("ALE/"):
        try:
            import ale_py
        except ImportError as error:
            raise MissingDependency(f"{env_id} needs the Atari emulator; get it with `pip install ale-py`") from error
        gym.register_envs(ale_py)
    try:
        return gym.make(env_id, render_mode="rgb_array")
    except gym.error.DependencyNotInstalled as error:
        raise MissingDependency(f"{env_id} needs a package that is not installed: {error}") from error
    except (gym.error.Error, ImportError) as error:
        raise InvalidInput(f"gymnasium cannot make {env_id!r} ({error}); check the id and its packages") from error


def _action_spec(env_id: str, env: gym.Env[Any, Any]) -> ActionSpec:
    space = env.action_space
    if isinstance(space, gym.spaces.Discrete):
        meanings = getattr(env.unwrapped, "get_action_meanings", lambda: ())()
        return ActionSpec(n=int(space.n), meanings=tuple(meanings), keys=_keys(tuple(meanings)))
    if isinstance(space, gym.spaces.Box) and len(space.shape) == 1 and space.is_bounded("both"):
        return ActionSpec(low=tuple(map(float, space.low)), high=tuple(map(float, space.high)))
    raise InvalidInput(
        f"{env_id} has actions {space}; worldsim takes Discrete actions or a bounded Box of one dimension, "
        "wrap the environment to have one of these"
    )


def _steps_per_second(env: gym.Env[Any, Any]) -> float:
    frame_skip = env.spec.kwargs.get("frameskip") if env.spec else None
    if env.spec and env.spec.namespace == "ALE" and isinstance(frame_skip, int):
        return ATARI_FPS / frame_skip  # its render_fps does not count skipped frames
    return float(env.metadata.get("render_fps") or DEFAULT_FPS)


def _keys(meanings: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """Keys for actions that are named as in ALE ("UPRIGHTFIRE"); none if any has another name."""
    keys = []
    for meaning in meanings:
        if not re.fullmatch("NOOP|(UP|DOWN)?(LEFT|RIGHT)?(FIRE)?", meaning):
            return ()
        words = re.findall("UP|DOWN|LEFT|RIGHT|FIRE", meaning)
        keys.append(tuple("space" if word == "FIRE" else word.lower() for word in words))
    return tuple(keys)
