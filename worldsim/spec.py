"""What the environments need to know of a world: its frames, its actions, its clock; and the protocol they step."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from worldsim.actions import ActionSpec
from worldsim.streams import StreamSpec

Decoding = Literal["all", "frame", "none"]  # of a step, decoded: with those between, the last one only, none


@dataclass(frozen=True)
class WorldSpec:
    """The contract between a world and the environments that serve it."""

    name: str
    height: int  # of a frame, in pixels
    width: int
    actions: ActionSpec
    steps_per_second: float  # steps in one second of the recorded game's time
    frames_per_step: int = 1  # > 1: a step also makes frames between the last frame and the new one
    max_episode_steps: int | None = None  # the recorded game's own time limit, in steps
    pixel_aspect: float = 1.0  # width of a pixel over its height, when shown
    weights: str = ""  # fingerprint of the weights; a saved state fits no others
    latent_shape: tuple[int, int, int] | None = None  # (C, h, w) of a frame's latents in a `LatentWorld`; else None
    starts: tuple[str, ...] = ()  # kinds of recorded starts that `reset(start=...)` takes; empty: it has no `start`
    streams: dict[str, StreamSpec] = field(default_factory=dict)  # what a `StreamWorld` gives besides its frames
    cameras: tuple[str, ...] = ()  # of a frame that several make, one above the other, with as many rows each
    audio: StreamSpec | None = None  # of the sound that every step gives in its extras, int16; None: it gives none
    ages: bool = False  # whether it is told how late in an episode given frames are: `reset(frames=..., age=...)`

    @property
    def audio_rate(self) -> int:
        """Samples of its sound in a second of the game's time; 0 without sound."""
        return 0 if self.audio is None else round(self.audio.shape[0] * self.steps_per_second)


@dataclass(frozen=True)
class WorldStep:
    """What one step of a batch of B worlds gives back; every array is freshly allocated."""

    frame: np.ndarray  # (B, H, W, 3) uint8, the frame after the action; (B, 0, 0, 3) where none was decoded
    reward: np.ndarray  # (B,) float32
    terminated: np.ndarray  # (B,) bool
    extras: dict[str, np.ndarray] = field(default_factory=dict)
    # extras have the batch first. Keys in use: "non_finite" (B,) bool; "termination_probability" (B,) float32;
    # "between" (B, frames_per_step - 1, H, W, 3) uint8, the frames before `frame`, oldest first; "audio" (B, samples,
    # channels) int16, the sound of the step, where `WorldSpec.audio` says so.


# Of one step: yields the name of each stage before it begins, and returns the new state and what the step gives.
Stages = Generator[str, None, tuple[Any, WorldStep]]


@runtime_checkable
class WorldProtocol(Protocol):
    """The little that `WorldEnv` and `WorldVectorEnv` ask of a world, so that any model can become an environment.

    The state is a tree (`worldsim.state.tree`) whose leaves have the batch first, and otherwise the same places, shapes
    and dtypes at every step. `step` may reuse the memory of the
    state it is given: keep a `worldsim.state.tree.clone` to return to it. Rows of a batch never influence each other.
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
        and the T-1 `actions` between them (B, T-1, ...) start from given frames instead of a recorded start. A world
        whose `spec.ages` is set takes their `age` (B,), too, and one with `spec.streams` their `streams`, (B, T, ...)
        by name, of which any may be missing.
        """
        ...

    def step(self, state: Any, actions: np.ndarray) -> tuple[Any, WorldStep]:
        """Advance every world of the batch by one action of its space: (B,) or (B, A) of `ActionSpec.dtype`."""
        ...

    def render(self, state: Any) -> np.ndarray:
        """The current frames, (B, H, W, 3) uint8: what `step` returned last, or the frame of the reset."""
        ...


@runtime_checkable
class LatentWorld(WorldProtocol, Protocol):
    """A world that can be stepped without decoding its frames; its `spec.latent_shape` says so."""

    def step(self, state: Any, actions: np.ndarray, *, decode: Decoding = "all") -> tuple[Any, WorldStep]:
        """As above; `decode` says which are decoded, and nothing else depends on it."""
        ...

    def latents(self, state: Any) -> np.ndarray:
        """What the current frames are decoded from, (B, C, h, w) float32."""
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

    def stages(self, state: Any, actions: np.ndarray, *, decode: Decoding = "all") -> Stages:
        """`step` in stages; `decode` is given only where the spec has a `latent_shape`."""
        ...
