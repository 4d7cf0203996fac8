"""What an agent sees, the same in a dream and in the real game: `ObservationConfig`; needs no Stable-Baselines3."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
import tyro

from worldsim.errors import InvalidInput
from worldsim.spec import WorldSpec
from worldsim.world import World

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # how bright the eye sees red, green and blue

Kind = Literal["latents", "pixels"]
Observe = Callable[[np.ndarray], np.ndarray]  # frames (N, H, W, 3) uint8 -> observations (N, ...)


@dataclass(frozen=True)
class ObservationConfig:
    """What an agent sees and how often it acts."""

    kind: Annotated[Kind, tyro.conf.arg(name="observation")] = "latents"  # of the world's tokenizer, or pixels
    height: int | None = None  # of pixels; None: as many as the world has
    width: int | None = None  # of pixels, too
    gray: bool = True  # pixels: brightness only
    stack: int = 3  # last observations seen together, the newest last: motion is in their difference
    hold: int = 2  # steps of the world that an action is held for

    def __post_init__(self) -> None:
        if self.kind not in ("latents", "pixels"):
            raise InvalidInput(f"observation kind is {self.kind!r}; give 'latents' or 'pixels'")
        for name in ("height", "width", "stack", "hold"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidInput(f"observation {name} is {value}; give 1 or more")

    @property
    def channels_order(self) -> str:
        """Where the channels of an observation are, and so where they are stacked."""
        return "first" if self.kind == "latents" else "last"

    def space(self, spec: WorldSpec) -> gym.spaces.Box:
        """One observation, before stacking: (C, h, w) float32 or (H, W, 1 or 3) uint8."""
        if self.kind == "pixels":
            shape = (self.height or spec.height, self.width or spec.width, 1 if self.gray else 3)
            return gym.spaces.Box(0, 255, shape, np.uint8)
        if spec.latent_shape is None:
            raise InvalidInput(f"world {spec.name!r} offers no latents; observe pixels")
        return gym.spaces.Box(-np.inf, np.inf, spec.latent_shape, np.float32)

    def see(self, world: World | None) -> Observe:
        """How frames (N, H, W, 3) uint8 become observations (N, ...); latents are those of the `world`."""
        if self.kind == "pixels":
            return self._shrink
        if world is None:
            raise InvalidInput("latents are seen through a world's tokenizer; give the world")
        return world.encode

    def _shrink(self, frames: np.ndarray) -> np.ndarray:
        """Take the brightness and average over areas, as far as it is asked for."""
        if self.gray:
            frames = np.round(frames.astype(np.float32) @ LUMA).astype(np.uint8)[..., None]
        size = (self.height or frames.shape[1], self.width or frames.shape[2])
        if size == frames.shape[1:3]:
            return frames
        planes = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
        small = F.interpolate(planes, size, mode="area").round().to(torch.uint8)
        return np.ascontiguousarray(small.permute(0, 2, 3, 1).numpy())
