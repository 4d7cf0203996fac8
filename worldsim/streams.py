"""What one sensor gives, the same from the simulator to the observation space: `StreamSpec`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import numpy as np

from worldsim.errors import InvalidInput

STREAM_KINDS = ("image", "depth", "vector", "audio", "token")


@dataclass(frozen=True)
class StreamSpec:
    """One sensor, the same from the simulator to the episode store, the model and the observation space.

    Raises InvalidInput for a kind or dtype that there is none of, and for bounds or names that do not fit the shape.
    """

    kind: Literal["image", "depth", "vector", "audio", "token"]  # token: a number that names something
    shape: tuple[int, ...]  # of what one step gives
    dtype: str  # a numpy name: "uint8", "float32", …
    low: tuple[float, ...] = ()  # bounds, one an entry or one for all; none: what the dtype holds
    high: tuple[float, ...] = ()
    names: tuple[str, ...] = ()  # of the entries of a vector, or of what the numbers of a token name
    unit: str = ""
    per_step: int = 1  # samples along the first axis of `shape`, where a step gives several

    def __post_init__(self) -> None:
        entries = math.prod(self.shape)
        if self.kind not in STREAM_KINDS:
            raise InvalidInput(f"a stream has kind {self.kind!r}; give one of {', '.join(STREAM_KINDS)}")
        try:
            np.dtype(self.dtype)
        except TypeError as error:
            raise InvalidInput(f"a stream has dtype {self.dtype!r}; give a numpy dtype such as 'float32'") from error
        if any(len(bound) not in (0, 1, entries) for bound in (self.low, self.high)):
            raise InvalidInput(
                f"a stream of shape {self.shape} has {len(self.low)} low and {len(self.high)} high bounds; give one "
                "for all entries, one for each, or none"
            )
        if not all(low <= high for low, high in zip(*self._bounds(), strict=True)):
            raise InvalidInput(
                f"a stream has bounds from {self.low} to {self.high}; give numbers, none above its other"
            )
        if self.kind == "vector" and len(self.names) not in (0, entries):
            raise InvalidInput(f"a vector of {entries} entries has {len(self.names)} names; give one for each, or none")

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def to_space(self) -> gym.spaces.Space[Any]:
        """The gymnasium space of one row; the bounds of boxes are finite, as checkers of environments want them."""
        if self.kind == "token" and not self.shape and self.names:
            return gym.spaces.Discrete(len(self.names))
        low, high = self.bounds()
        return gym.spaces.Box(low, high, dtype=np.dtype(self.dtype).type)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The lowest and the highest row."""
        low, high = (np.array(bound).astype(self.dtype).reshape(self.shape) for bound in self._bounds())
        return low, high

    def _bounds(self) -> tuple[list[Any], list[Any]]:
        """The bounds of every entry."""
        kind = np.dtype(self.dtype).kind
        limits = np.finfo(self.dtype) if kind == "f" else np.iinfo(self.dtype) if kind in "iu" else None
        least, most = (False, True) if limits is None else (limits.min, limits.max)
        entries = math.prod(self.shape)

        def each(bound: tuple[float, ...], default: Any) -> list[Any]:
            values = list(bound) or [default]
            return values * entries if len(values) == 1 else values

        return each(self.low, least), each(self.high, most)
