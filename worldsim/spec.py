"""What the environments need to know of a world: its pictures, its actions, its clock; and the protocol they step."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np

from worldsim.errors import InvalidInput

BOX_DTYPES = ("float32", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)))
STREAM_KINDS = ("image", "depth", "vector", "audio", "token")
Pictures = Literal["all", "frame", "none"]  # of a step, decoded: with those between, the last one only, none


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


@dataclass(frozen=True)
class ActionSpec:
    """An action space that can be written to JSON: either `n` discrete actions or a box of numbers.

    Actions are everywhere those of this space, as the recorded game takes them; only the embedding in the dynamics
    counts discrete ones from 0. Raises InvalidInput for a `box_dtype` that is neither float32 nor an integer type.
    """

    n: int = 0  # number of discrete actions; 0 means a box
    low: tuple[float, ...] = ()  # bounds of a continuous action, one a dimension
    high: tuple[float, ...] = ()
    meanings: tuple[str, ...] = ()  # what each discrete action does, as in ALE
    keys: tuple[tuple[str, ...], ...] = ()  # keys (pygame names, "left") held for each discrete action
    start: int = 0  # the first discrete action; the others follow it
    box_dtype: str = "float32"  # of the box: float32, or an integer type for a box of whole numbers

    def __post_init__(self) -> None:
        if self.box_dtype not in BOX_DTYPES:
            raise InvalidInput(f"box_dtype of the actions is {self.box_dtype!r}; give one of {', '.join(BOX_DTYPES)}")

    @property
    def discrete(self) -> bool:
        """Whether actions are integers in [start, start + n)."""
        return self.n > 0

    @property
    def dtype(self) -> str:
        """The numpy type of recorded actions and of those that a world takes: int64, or float32 in a box of floats."""
        return "int64" if self.discrete or self.box_dtype != "float32" else "float32"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one action: () for discrete ones, (A,) in a box."""
        return () if self.discrete else (len(self.low),)

    def to_stream(self) -> StreamSpec:
        """The actions as a stream of an episode store."""
        return StreamSpec("token" if self.dtype == "int64" else "vector", self.shape, self.dtype)

    def to_space(self) -> gym.spaces.Space[Any]:
        """The gymnasium space of one action."""
        if self.discrete:
            return gym.spaces.Discrete(self.n, start=self.start)
        dtype = np.dtype(self.box_dtype).type
        return gym.spaces.Box(np.array(self.low, dtype), np.array(self.high, dtype), dtype=dtype)

    def lowest(self, rows: int) -> np.ndarray:
        """For each of `rows` worlds the first action, or the lowest one of a box: (rows,) or (rows, A) of `dtype`."""
        return np.tile(np.array(self.start if self.discrete else self.low, self.dtype), (rows, *(1,) * len(self.shape)))

    def draw(self, rng: np.random.Generator, rows: int | None = None) -> Any:
        """Uniformly random actions: one, or (rows,) or (rows, A) of them."""
        if self.discrete:
            return self.start + rng.integers(self.n, size=rows)
        size = None if rows is None else (rows, *self.shape)
        if self.dtype == "int64":
            return rng.integers(np.array(self.low, np.int64), np.array(self.high, np.int64), size, endpoint=True)
        return rng.uniform(self.low, self.high, size).astype(np.float32)


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
    latent_shape: tuple[int, int, int] | None = None  # (C, h, w) of a frame's latents in a `LatentWorld`; else None
    starts: tuple[str, ...] = ()  # kinds of recorded starts that `reset(start=...)` takes; empty: it has no `start`
    streams: dict[str, StreamSpec] = field(default_factory=dict)  # what a `StreamWorld` gives besides its frames
    cameras: tuple[str, ...] = ()  # of a frame that several make, one above the other, with as many rows each
    ages: bool = False  # whether it is told how late in an episode given pictures are: `reset(frames=..., age=...)`


@dataclass(frozen=True)
class WorldStep:
    """What one step of a batch of B worlds gives back; every array is freshly allocated."""

    frame: np.ndarray  # (B, H, W, 3) uint8, the picture after the action; (B, 0, 0, 3) where none was decoded
    reward: np.ndarray  # (B,) float32
    terminated: np.ndarray  # (B,) bool
    extras: dict[str, np.ndarray] = field(default_factory=dict)
    # extras have the batch first. Keys in use: "non_finite" (B,) bool; "termination_probability" (B,) float32;
    # "between" (B, pictures_per_step - 1, H, W, 3) uint8, the pictures before `frame`, oldest first.


# Of one step: yields the name of each stage before it begins, and returns the new state and what the step gives.
Stages = Generator[str, None, tuple[Any, WorldStep]]


@runtime_checkable
class WorldProtocol(Protocol):
    """The little that `WorldEnv` and `WorldVectorEnv` ask of a world, so that any model can become an environment.

    The state is a tree (`worldsim.tree`) whose leaves have the batch first, and otherwise the same places, shapes and
    dtypes at every step. `step` may reuse the memory of the
    state it is given: keep a `worldsim.tree.clone` to return to it. Rows of a batch never influence each other.
    A step may be interrupted, and be taken again: environments copy the state before each one, unless the world has a
    method `rewind(state)` that makes the last state that was stepped as good as it was.
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
        and the T-1 `actions` between them (B, T-1, ...) start from given pictures instead of a recorded start. A world
        whose `spec.ages` is set takes their `age` (B,), too.
        """
        ...

    def step(self, state: Any, actions: np.ndarray) -> tuple[Any, WorldStep]:
        """Advance every world of the batch by one action of its space: (B,) or (B, A) of `ActionSpec.dtype`."""
        ...

    def render(self, state: Any) -> np.ndarray:
        """The current pictures, (B, H, W, 3) uint8: what `step` returned last, or the picture of the reset."""
        ...


@runtime_checkable
class LatentWorld(WorldProtocol, Protocol):
    """A world that can be stepped without decoding its pictures; its `spec.latent_shape` says so."""

    def step(self, state: Any, actions: np.ndarray, *, pictures: Pictures = "all") -> tuple[Any, WorldStep]:
        """As above; `pictures` says which are decoded, and nothing else depends on it."""
        ...

    def latents(self, state: Any) -> np.ndarray:
        """What the current pictures are decoded from, (B, C, h, w) float32."""
        ...


@runtime_checkable
class StreamWorld(WorldProtocol, Protocol):
    """A world with sensors besides its frames; its `spec.streams` describes them, the extras of a step have them."""

    def streams(self, state: Any) -> dict[str, np.ndarray]:
        """Their current values, (B, ...) each, finite and within the bounds of its `StreamSpec`."""
        ...


@runtime_checkable
class StagedWorld(WorldProtocol, Protocol):
    """A world whose step can be left half-way, so that one that was begun ahead of time is soon out of the way."""

    def stages(self, state: Any, actions: np.ndarray, *, pictures: Pictures = "all") -> Stages:
        """`step` in stages; `pictures` is given only where the spec has a `latent_shape`."""
        ...
