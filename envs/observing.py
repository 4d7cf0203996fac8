"""What environments show of their world after every step, and what has to be decoded for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import gymnasium as gym
import numpy as np
import torch

from worldsim.envs.worlds import render_world
from worldsim.errors import InvalidInput
from worldsim.spec import Decoding, LatentWorld, StreamWorld, WorldProtocol, WorldStep
from worldsim.state.tree import tree_map

Observation = str | Sequence[str]  # "pixels", "latents" or a stream of the world; several of them: a dict
Shown = Any  # an array (B, ...), or a dict of such arrays


class Observer:
    """Shows frames (H, W, 3) uint8, the latents (C * h * w,) float32 that they are decoded from, cameras or streams.

    A camera is its part of the frame. A list of names gives a dict with an entry for each. Latents are flat and bounded
    by what a float32 holds: the checkers of gymnasium and Stable-Baselines3 warn of infinite bounds, and take a box of
    three dimensions for an image. `spec.latent_shape` gives them their grid back. `between` has the frames before the
    last one of every step decoded too. Raises InvalidInput for an unknown observation, and for latents of a world that
    offers none.
    """

    def __init__(self, world: WorldProtocol, observation: Observation, between: bool) -> None:
        self.world = world
        self.observation = observation
        names = (observation,) if isinstance(observation, str) else tuple(observation)
        if not names or len(set(names)) < len(names):
            raise InvalidInput(f"observation={observation!r}; name one thing to observe or more, each once")
        spaces = {name: self._space(name) for name in names}
        self._names = names
        self._sees_frame = bool({"pixels", *world.spec.cameras} & {*names})
        self.space: gym.spaces.Space[Any] = (
            spaces[names[0]] if isinstance(observation, str) else gym.spaces.Dict(spaces)
        )
        self.decode: Decoding = "all" if between else "frame" if self._sees_frame else "none"

    def _space(self, name: str) -> gym.spaces.Space[Any]:
        spec = self.world.spec
        if name == "pixels":
            return gym.spaces.Box(0, 255, (spec.height, spec.width, 3), np.uint8)
        if name in spec.cameras:
            return gym.spaces.Box(0, 255, (spec.height // len(spec.cameras), spec.width, 3), np.uint8)
        if name == "latents":
            if spec.latent_shape is None:
                raise InvalidInput(f"world {spec.name!r} offers no latents; pass observation='pixels'")
            limit = np.finfo(np.float32).max
            return gym.spaces.Box(-limit, limit, (math.prod(spec.latent_shape),), np.float32)
        if name not in spec.streams:
            known = ", ".join(map(repr, ("pixels", "latents", *spec.cameras, *spec.streams)))
            raise InvalidInput(f"observation={self.observation!r}; pass one of {known}, or a list of them")
        return spec.streams[name].to_space()

    @torch.no_grad()
    def observe(self, state: Any, rows: int) -> Shown:
        """The observations of a batch of `rows` worlds, (rows, ...); not to be written to."""
        return self._join(state, rows, None)

    def after(self, state: Any, step: WorldStep) -> Shown:
        """The observations after a step that led to `state`, (B, ...); not to be written to."""
        return self._join(state, len(step.reward), step.frame)

    def pixels(self, shown: Shown) -> np.ndarray | None:
        """The frames (B, H, W, 3) of what is shown; None where they are not among it."""
        if "pixels" not in self._names:
            return None
        return cast(np.ndarray, shown if isinstance(self.observation, str) else shown["pixels"])

    @torch.no_grad()
    def _join(self, state: Any, rows: int, frame: np.ndarray | None) -> Shown:
        cameras, streams = self.world.spec.cameras, self.world.spec.streams
        if frame is None and self._sees_frame:
            frame = render_world(self.world, state, rows)
        values = cast(StreamWorld, self.world).streams(state) if {*self._names} & streams.keys() else {}
        parts: dict[str, np.ndarray] = {}
        for name in self._names:
            if frame is not None and name == "pixels":
                parts[name] = frame
            elif frame is not None and name in cameras:
                parts[name] = np.split(frame, len(cameras), axis=1)[cameras.index(name)]
            elif name == "latents":
                parts[name] = cast(LatentWorld, self.world).latents(state).reshape(rows, -1)
            else:
                parts[name] = values[name]
        return parts[self._names[0]] if isinstance(self.observation, str) else parts


def row_of(shown: Shown, row: int) -> Any:
    """A copy of one environment's observation."""
    return tree_map(lambda values: values[row].copy(), shown)
