"""What the environments need to know of a world: its pictures, its actions, its clock; and the protocol they step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np


@dataclass(frozen=True)
class ActionSpec:
    """An action space that can be written to JSON: either `n` discrete actions or a box of floats."""

    n: int = 0  # number of discrete actions; 0 means continuous
    low: tuple[float, ...] = ()  # bounds of a continuous action, one a dimension
    high: tuple[float, ...] = ()
    meanings: tuple[str, ...] = ()  # what each discrete action does, as in ALE
    keys: tuple[tuple[str, ...], ...] = ()  # keys (pygame names, "left") held for each discrete action

    @property
    def discrete(self) -> bool:
        """Whether actions are integers in [0, n)."""
        return self.n > 0

    def to_space(self) -> gym.spaces.Space[Any]:
        """The gymnasium space of one action."""
        if self.discrete:
            return gym.spaces.Discrete(self.n)
        return gym.spaces.Box(np.array(self.low, np.float32), np.array(self.high, np.float32), dtype=np.float32)


@dataclass(frozen=True)
class WorldSpec:
    """The contract between a world and the environments that serve it."""

    name: str
    height: int  # of a picture, in pixels
    width: int
    actions: ActionSpec
    steps_per_second: float  # steps in one second of the recorded game's time
    pictures_per_step: int = 1  # > 1: a step also makes pictures between the last frame and the new one
    max_episode_steps: int | None = None  # the recorded game's own time limit, in steps
    pixel_aspect: float = 1.0  # width of a pixel over its height, when shown
    weights: str = ""  # fingerprint of the weights; a saved state fits no others


@dataclass(frozen=True)
class WorldStep:
    """What one step of a batch of B worlds gives back; every array is freshly allocated."""

    frame: np.ndarray  # (B, H, W, 3) uint8, the picture after the action
    reward: np.ndarray  # (B,) float32
    terminated: np.ndarray  # (B,) bool
    extras: dict[str, np.ndarray] = field(default_factory=dict)
    # extras have the batch first. Keys in use: "non_finite" (B,) bool; "termination_probability" (B,) float32;
    # "between" (B, pictures_per_step - 1, H, W, 3) uint8, the pictures before `frame`, oldest first.


@runtime_checkable
class WorldProtocol(Protocol):
    """The little that `WorldEnv` and `WorldVectorEnv` ask of a world, so that any model can become an environment.

    The state is a tree (`worldsim.tree`) whose leaves have the batch first. `step` may reuse the memory of the
    state it is given: keep a `worldsim.tree.clone` to return to it. Rows of a batch never influence each other.
    """

    @property
    def spec(self) -> WorldSpec:
        """Sizes, actions and clock."""
        ...

    def reset(
        self,
        seed: Sequence[int],
        *,
        episode: Sequence[int] | None = None,
        frames: np.ndarray | None = None,
        actions: np.ndarray | None = None,
    ) -> Any:
        """Start B = len(seed) worlds; all their randomness derives from (seed, episode, step).

        `episode` counts an environment's resets since it was last seeded (default 0). `frames` (B, T, H, W, 3) uint8
        and the T-1 `actions` between them (B, T-1, ...) start from given pictures instead of a recorded start.
        """
        ...

    def step(self, state: Any, actions: np.ndarray) -> tuple[Any, WorldStep]:
        """Advance every world of the batch by one action: (B,) int64 or (B, A) float32."""
        ...

    def render(self, state: Any) -> np.ndarray:
        """The current pictures, (B, H, W, 3) uint8: what `step` returned last, or the picture of the reset."""
        ...
