"""A real simulator as a gymnasium environment, to put an agent that was trained in a dream of it: `SourceEnv`."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

from worldsim.envs.progress import Counters, Progress
from worldsim.envs.sources import Source, TimeStep
from worldsim.envs.starts import check_options, check_seed
from worldsim.errors import InvalidInput


class SourceEnv(gym.Env[np.ndarray, Any]):
    """A source behind gymnasium's interface: frames (H, W, 3) uint8, the same actions and clock as in its worlds.

    `hold` steps of the source make one step here; `between` puts the frames before the last one of a step into
    the info, (n, H, W, 3) uint8. A seeded `reset` begins episode 0 of that seed, each `reset` without a seed the next.

    Example:
        >>> env = SourceEnv(make_source("doom-take-cover"), hold=2)
        >>> observation, info = env.reset(seed=0)
        >>> observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 30}  # type: ignore[misc]

    def __init__(
        self, source: Source, *, hold: int = 1, between: bool = False, render_mode: str | None = "rgb_array"
    ) -> None:
        if hold < 1:
            raise InvalidInput(f"hold is {hold}; give 1 or more steps that an action is held for")
        spec = source.spec
        self.source = source
        self.hold = hold
        self.between = between
        self.render_mode = render_mode
        self.observation_space = gym.spaces.Box(0, 255, (spec.height, spec.width, 3), np.uint8)
        self.action_space = spec.actions.to_space()
        self.metadata = {**type(self).metadata, "render_fps": max(1, round(spec.fps / hold))}  # type: ignore[misc]
        self._progress = Progress(1)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode; no option means anything here."""
        check_options(options, known=())
        seed = check_seed(seed)
        base, episode = self._progress.next_start(0, seed, self.np_random)
        super().reset(seed=seed)
        row = self.source.reset(int(np.random.SeedSequence([base, episode]).generate_state(1)[0]))
        self._progress.put(0, Counters(base, episode))
        return row.rgb.copy(), self._info([])

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Take one action for `hold` steps of the source, or to the end of the episode."""
        self._progress.require_running()
        rows: list[TimeStep] = []
        while len(rows) < self.hold and not (rows and rows[-1].done):
            rows.append(self.source.step(action))
        last, counters = rows[-1], self._progress.counters(0)
        self._progress.put(0, counters._replace(step=counters.step + 1, ended=last.done))
        reward = float(sum(row.reward for row in rows))
        return last.rgb.copy(), reward, last.terminated, last.truncated, self._info(rows)

    def render(self) -> np.ndarray | None:
        """The current frame (H, W, 3) uint8."""
        self._progress.require_started()
        return None if self.render_mode is None else self.source.render()

    def close(self) -> None:
        """Stop the simulator; may be called twice."""
        self.source.close()

    def _info(self, rows: list[TimeStep]) -> dict[str, Any]:
        counters = self._progress.counters(0)
        info: dict[str, Any] = {"step": counters.step, "episode_index": counters.episode, "seed": counters.seed}
        if self.between and rows:
            frames = [p for row in rows for p in (*row.extras.get("between", ()), row.rgb)]
            info["between"] = np.stack(frames)[:-1]
        return info
