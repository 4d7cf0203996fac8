"""A world without a network: balls fly at the player, who moves left and right; and a real game like it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from worldsim import ActionSpec, WorldSpec, WorldStep
from worldsim.envs.sources.base import SourceSpec, TimeStep
from worldsim.sampling.noise import STREAM_FRAME, uniform

HEIGHT, WIDTH, FRAMES = 64, 128, 2
ACTIONS = ActionSpec(n=3, meanings=("NOOP", "LEFT", "RIGHT"), keys=((), ("left",), ("right",)))


@dataclass
class ToyState:
    seed: np.ndarray  # (B,) int64
    step: np.ndarray  # (B,) int64
    player: np.ndarray  # (B,) float32, across
    balls: np.ndarray  # (B, 5, 3) float32: across, nearness 0 to 1, speed
    frame: np.ndarray  # (B, H, W, 3) uint8


class ToyWorld:
    """Steps in place, as the protocol allows. `slow` seconds a step; the episode ends at step `ends_at`."""

    def __init__(self, *, steps_per_second: float = 17.5, ends_at: int = 10**9, slow: float = 0.0, **spec: Any) -> None:
        self.spec = WorldSpec(
            **{
                "name": "toy-take-cover",
                "height": HEIGHT,
                "width": WIDTH,
                "actions": ACTIONS,
                "steps_per_second": steps_per_second,
                "frames_per_step": FRAMES,
                "pixel_aspect": 4 / 3,
                **spec,
            }
        )
        self.ends_at, self.slow = ends_at, slow
        self.actions: list[int] = []  # all that ever arrived
        self.at_step: dict[int, Callable[[], None]] = {}  # what else happens in a step of that number

    def reset(self, seed: Sequence[int], *, episode: Any = None, frames: Any = None, actions: Any = None) -> ToyState:
        count = len(seed)
        seeds, zeros = np.array(seed, np.int64), np.zeros(count, np.int64)
        balls = uniform(seeds, zeros, zeros, STREAM_FRAME, (5, 3))
        state = ToyState(seeds, zeros, np.zeros(count, np.float32), balls, self._draw(np.zeros(count), balls))
        if frames is not None:
            state.frame = frames[:, -1].copy()
        return state

    def step(self, state: ToyState, actions: np.ndarray) -> tuple[ToyState, WorldStep]:
        time.sleep(self.slow)
        self.actions.append(int(actions[0]))
        state.step += 1
        self.at_step.get(int(state.step[0]), lambda: None)()
        frames = []
        for _ in range(FRAMES):
            state.player += np.array([0, -0.025, 0.025], np.float32)[actions]
            state.balls[..., 1] += 0.005 + 0.02 * state.balls[..., 2]
            fresh = uniform(state.seed, np.zeros_like(state.seed), state.step, STREAM_FRAME, (5, 3))
            gone = state.balls[..., 1] > 1
            state.balls[gone] = (fresh * (1, 0.2, 1))[gone]
            frames.append(self._draw(state.player, state.balls))
        state.frame = frames[-1]
        chance = np.clip(state.balls[..., 1].max(1) - 0.9, 0, 1).astype(np.float32) / 10
        extras = {"between": frames[0][:, None], "termination_probability": chance}
        step = WorldStep(state.frame.copy(), np.ones(len(actions), np.float32), state.step == self.ends_at, extras)
        return state, step

    def render(self, state: ToyState) -> np.ndarray:
        return state.frame.copy()

    @staticmethod
    def _draw(player: np.ndarray, balls: np.ndarray) -> np.ndarray:
        y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
        frames = []
        for position, row in zip(player, balls, strict=True):
            brick = (((x + position * 300) // 16 + y // 8) % 2) * 10
            shade = np.where(y < 24, 70 + brick, 40 + (y - 24) * 1.4)
            frame = np.stack([shade, shade * 0.75, shade * 0.55], -1)
            for across, near, _ in row:
                centre_x = WIDTH * (0.5 + (across - 0.5 - position) * (0.3 + 1.5 * near))
                radius = 1 + 9 * near**2
                ball = (x - centre_x) ** 2 + ((y - 26 - 16 * near) * 4 / 3) ** 2 < radius**2
                frame[ball] = (250, 170, 60)
            frames.append(frame)
        return np.stack(frames).clip(0, 255).astype(np.uint8)


class ToySource:
    """The same game as a real simulator; over after `ends_at` steps."""

    def __init__(self, *, ends_at: int = 10**9, steps_per_second: float = 17.5) -> None:
        self.spec = SourceSpec("toy", HEIGHT, WIDTH, ACTIONS, steps_per_second)
        self.actions: list[int] = []
        self.closed = False
        self._world = ToyWorld(ends_at=ends_at)
        self._state: ToyState | None = None

    def reset(self, seed: int) -> TimeStep:
        self._state = self._world.reset([seed])
        return TimeStep(self.render())

    def step(self, action: int | np.ndarray) -> TimeStep:
        self.actions.append(int(action))
        self._state, step = self._world.step(self._state, np.array([action], np.int64))
        return TimeStep(step.frame[0], 1.0, bool(step.terminated[0]), extras={"between": step.extras["between"][0]})

    def render(self) -> np.ndarray:
        assert self._state is not None
        return self._state.frame[0].copy()

    def close(self) -> None:
        self.closed = True
