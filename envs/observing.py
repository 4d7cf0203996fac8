"""What environments show of their world after every step, and what has to be decoded for it."""

from __future__ import annotations

import math
from typing import Any, Literal, cast, get_args

import gymnasium as gym
import numpy as np
import torch

from worldsim.envs.worlds import render_world
from worldsim.errors import InvalidInput
from worldsim.spec import LatentWorld, Pictures, WorldProtocol, WorldStep

Observation = Literal["pixels", "latents"]


class Observer:
    """Shows pictures (H, W, 3) uint8, or the latents (C * h * w,) float32 that they would be decoded from.

    Latents are flat and bounded by what a float32 holds: the checkers of gymnasium and Stable-Baselines3 warn of
    infinite bounds, and take a box of three dimensions for an image. `spec.latent_shape` gives them their grid back.
    `between` has the pictures before the last one of every step decoded too. Raises InvalidInput for an unknown
    observation, and for latents of a world that offers none.
    """

    def __init__(self, world: WorldProtocol, observation: Observation, between: bool) -> None:
        if observation not in get_args(Observation):
            known = ", ".join(map(repr, get_args(Observation)))
            raise InvalidInput(f"observation={observation!r}; pass one of {known}")
        spec = world.spec
        self.world = world
        self.observation = observation
        self.pictures: Pictures = "all" if between else "frame" if observation == "pixels" else "none"
        self.space: gym.spaces.Box = gym.spaces.Box(0, 255, (spec.height, spec.width, 3), np.uint8)
        if observation == "latents":
            if spec.latent_shape is None:
                raise InvalidInput(f"world {spec.name!r} offers no latents; pass observation='pixels'")
            limit = np.finfo(np.float32).max
            self.space = gym.spaces.Box(-limit, limit, (math.prod(spec.latent_shape),), np.float32)

    @torch.no_grad()
    def observe(self, state: Any, rows: int) -> np.ndarray:
        """The observations of a batch of `rows` worlds, (rows, ...); not to be written to."""
        if self.observation == "pixels":
            return render_world(self.world, state, rows)
        return cast(LatentWorld, self.world).latents(state).reshape(rows, -1)

    def after(self, state: Any, step: WorldStep) -> np.ndarray:
        """The observations after a step that led to `state`, (B, ...); not to be written to."""
        return step.frame if self.observation == "pixels" else self.observe(state, len(step.reward))
