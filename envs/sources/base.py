"""What a recording source is: a real simulator behind `reset` and `step`, with its sizes and clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from worldsim.errors import InvalidAction, InvalidState
from worldsim.spec import ActionSpec, StreamSpec


@dataclass(frozen=True)
class Arena:
    """Where the player can be, so that a recording can say how much of it was visited."""

    bounds: dict[str, tuple[float, float]]  # by the name of a variable
    cell: float  # side of a cell, in the same units
    floor_cells: int  # cells inside the bounds that can be entered


@dataclass(frozen=True)
class SourceSpec:
    """The contract of a source; everything a store of its episodes says about it."""

    name: str  # as given to `make_source`; of an environment "gym:" and its id, or "env:" and its class
    height: int  # of a frame, in pixels
    width: int
    actions: ActionSpec
    fps: float  # steps in one second of the game's time
    frame_skip: int = 1  # simulator ticks in a step
    max_episode_steps: int | None = None
    pixel_aspect: float = 1.0  # width of a pixel over its height, when shown
    hfov_degrees: float | None = None  # horizontal field of view of the camera
    variable_names: tuple[str, ...] = ()
    arena: Arena | None = None
    augmentations: dict[str, Any] = field(default_factory=dict)  # that hold for it (`worldsim.data.augment`)
    extras: dict[str, StreamSpec] = field(default_factory=dict)  # optional streams that rows carry
    parameters: dict[str, Any] = field(default_factory=dict)  # what to give to make the same source again


@dataclass(frozen=True)
class TimeStep:
    """What a reset or a step gives: the frame, what the action earned, whether the episode ended."""

    rgb: np.ndarray  # (H, W, 3) uint8
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    extras: dict[str, np.ndarray] = field(default_factory=dict)  # keyed as `SourceSpec.extras`

    @property
    def done(self) -> bool:
        """Whether the episode is over."""
        return self.terminated or self.truncated


def frame_of(row: TimeStep | None) -> np.ndarray:
    """A copy of the frame of the last step (H, W, 3) uint8; raises InvalidState where there was none yet."""
    if row is None:
        raise InvalidState("there is no frame before the first reset; call reset(seed) first")
    return row.rgb.copy()


@runtime_checkable
class Source(Protocol):
    """A real simulator; the same seed and actions give the same rows, whatever was played before."""

    spec: SourceSpec

    def reset(self, seed: int) -> TimeStep:
        """Start the episode that `seed` names."""
        ...

    def step(self, action: int | np.ndarray) -> TimeStep:
        """Play one action; raises InvalidState before a reset or after the end."""
        ...

    def render(self) -> np.ndarray:
        """The current frame (H, W, 3) uint8, for showing beside a dream."""
        ...

    def close(self) -> None:
        """Stop the simulator."""
        ...


def check_discrete(action: int | np.ndarray, n: int, start: int = 0) -> int:
    """The action as an int in [start, start + n); raises InvalidAction for anything else."""
    value = np.asarray(action)
    if value.ndim or value.dtype.kind not in "iu" or not start <= value < start + n:
        raise InvalidAction(f"action {action!r} is no integer from {start} to {start + n - 1}; give one of these")
    return int(value)
