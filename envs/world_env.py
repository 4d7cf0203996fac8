"""A world as a gymnasium environment: `WorldEnv`."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

from worldsim.actions import check_action
from worldsim.envs import worlds
from worldsim.envs.progress import Progress
from worldsim.envs.starts import check_options, check_seed, check_start
from worldsim.envs.state import EnvState, pack, unpack
from worldsim.envs.window import Window
from worldsim.spec import WorldProtocol
from worldsim.tree import clone


class WorldEnv(gym.Env[np.ndarray, Any]):
    """One learned world behind gymnasium's interface; observations are pictures (H, W, 3) uint8.

    `world` is a name (shipped, local folder, hub id) or any object with the four members of `WorldProtocol`.
    `max_episode_steps` truncates episodes: a number, None for never, "world" for the recorded game's limit.
    `gym.make(..., max_episode_steps=n)` puts gymnasium's own wrapper on top, which can only shorten episodes.

    A seeded `reset` begins episode 0 of that seed, each `reset` without a seed the next one, so that a seed
    fixes all that follows. The info of every call has "step", "episode_index", "seed" and "non_finite" (the
    numbers of the model broke down, which truncates the episode), and what the world adds to them, such as
    "termination_probability".

    Raises InvalidAction, InvalidState and InvalidInput, always before anything has changed.

    Example:
        >>> env = gym.make("worldsim:worldsim/DoomTakeCover-v0", render_mode="rgb_array")
        >>> observation, info = env.reset(seed=0)
        >>> observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array", "human"], "render_fps": 30}  # type: ignore[misc]

    def __init__(
        self,
        world: str | WorldProtocol,
        *,
        render_mode: str | None = None,
        max_episode_steps: worlds.TimeLimit = "world",
        device: str = "auto",
    ) -> None:
        self.render_mode = worlds.check_render_mode(render_mode, self.metadata["render_modes"])
        self.world = worlds.load_world(world, device)
        spec = self.world.spec
        self.max_episode_steps = worlds.time_limit(spec, max_episode_steps)
        self.observation_space = worlds.picture_space(spec)
        self.action_space = spec.actions.to_space()
        self.metadata = {**type(self).metadata, "render_fps": worlds.render_fps(spec)}  # type: ignore[misc]
        self._window = Window(spec) if render_mode == "human" else None
        self._progress = Progress()
        self._state: Any = None
        self._picture: np.ndarray | None = None  # None: not drawn yet since a state was restored

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode, from a recorded start or from the pictures given in `options`.

        `options` may hold "frames" (T, H, W, 3) uint8, oldest first, and the T - 1 "actions" between them.
        """
        seed = check_seed(seed)
        given = check_options(options)
        start = check_start(self.world.spec, given.get("frames"), given.get("actions"))
        base, episode = self._progress.next_start(seed, self.np_random)
        state, picture = worlds.reset_world(self.world, base, episode, start)
        super().reset(seed=seed)
        info = self._progress.begin(base, episode)
        self._state, self._picture = state, picture.copy()
        self._show()
        return picture.copy(), info

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Take one action; the picture after it, reward, terminated, truncated, info."""
        self._progress.require_running()
        checked = check_action(self.world.spec.actions, action)
        self._state, result = worlds.step_world(self.world, self._state, checked)
        outcome = self._progress.advance(result, 0, self.max_episode_steps)
        self._picture = result.frame[0].copy()
        self._show(outcome.info.get("between", ()))
        return result.frame[0].copy(), *outcome

    def render(self) -> np.ndarray | None:
        """The current picture (H, W, 3) uint8 in mode "rgb_array"; in mode "human" it is on screen."""
        self._progress.require_started()
        if self.render_mode is None:
            gym.logger.warn('render() needs a render mode; make the environment with render_mode="rgb_array"')
        if self.render_mode != "rgb_array":
            return None
        return self._current_picture().copy()

    def close(self) -> None:
        """Close the window, if there is one; may be called twice."""
        if self._window is not None:
            self._window.close()

    def save_state(self) -> EnvState:
        """All of the environment's state, as a copy of its own; `EnvState.save` writes it to a file."""
        return pack(self.world, clone(self._state), self._progress)

    def restore_state(self, state: EnvState) -> None:
        """Return to a saved state of this world, bit for bit; may be done any number of times."""
        self._state, self._progress = unpack(self.world, state)
        self._picture = None

    def fork(self, n: int) -> list[WorldEnv]:
        """`n` environments in this one's state; they share the world's weights and open no window."""
        state = self.save_state()
        mode = "rgb_array" if self.render_mode == "human" else self.render_mode
        forks = []
        for _ in range(n):
            env = WorldEnv(self.world, render_mode=mode, max_episode_steps=self.max_episode_steps)
            env.restore_state(state)
            forks.append(env)
        return forks

    def get_action_meanings(self) -> list[str]:
        """What each discrete action does, as in ALE; empty when the world does not say."""
        return worlds.action_meanings(self.world.spec.actions)

    def get_keys_to_action(self) -> dict[tuple[int, ...], int]:
        """Pygame key codes held down -> action, for `gymnasium.utils.play`."""
        return worlds.keys_to_action(self.world.spec.actions)

    def _current_picture(self) -> np.ndarray:
        if self._picture is None:
            self._picture = worlds.render_world(self.world, self._state, 1)[0].copy()
        return self._picture

    def _show(self, between: Any = ()) -> None:
        """In mode "human", show the pictures of the last step in order."""
        if self._window is not None:
            for picture in (*between, self._current_picture()):
                self._window.show(picture)
