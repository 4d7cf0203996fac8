"""Many dreams at once, as latents: frames are decoded only where a measurement looks at them.

A dream here is what `World.reset(frames=…)` and `World.step` make of the same context, actions and seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worldsim.models.registry import Streams
from worldsim.models.tokenizer import to_frames, to_images
from worldsim.rollout import advance, finish, start
from worldsim.spec import WorldStep
from worldsim.state.tree import clone, map_named, select_rows
from worldsim.world import World

BATCH = 64  # frames encoded or decoded at a time


@dataclass(frozen=True)
class Dreamed:
    """One step of B dreams."""

    latents: Tensor  # (B, 1 + between, C, h, w): the new frame, then the intermediate frames
    end_probability: np.ndarray  # (B,) float32
    ended: np.ndarray  # (B,) bool, drawn with that probability
    reward: np.ndarray  # (B,) float32


class Dreams:
    """A batch of dreams that are stepped together; the dreams of one seed are the same in any batch."""

    def __init__(
        self, world: World, context: Tensor, actions: np.ndarray, ages: np.ndarray, seeds: Sequence[int],
        known: Streams | None = None,
    ) -> None:  # fmt: skip
        """Read `context` (B, T, C, h, w), T >= 1, and the `actions` (B, T - 1, ...) between its rows.

        `ages` (B,): steps from the beginning of the episode to the first row. `known` (B, T, ...) or (B, 1, ...) are
        recorded values of other sensors; without them the recording's are not looked at.
        """
        self.world = world
        taken = torch.as_tensor(np.ascontiguousarray(actions))
        ages_of = torch.as_tensor(ages)
        usual = world.usual_streams(len(context))
        streams = {name: values[:, None] for name, values in usual.items()}  # of the first frame; heads say the rest
        streams |= known or {}
        self._state = start(
            world.engine, context, taken, ages=ages_of, seeds=seeds, episodes=[0] * len(seeds), streams=streams
        )

    def observe(self, frame: Tensor, actions: np.ndarray) -> WorldStep:
        """Take the true next frame's latents (B, C, h, w); returns what the world says of the step.

        A head that reads the new frame reads what the world draws there, as in a dream: it has not learned what a
        recording shows when an episode is over.
        """
        if not self.world.dynamics.heads.late:
            return self._advance(actions, frame)[1]
        before = clone(self._state)
        step = self._advance(actions)[1]
        self._state = before
        self._advance(actions, frame)
        return step

    def step(self, actions: np.ndarray, streams: Streams | None = None) -> Dreamed:
        """Advance every dream by one action, (B,) int64 or (B, A) float32.

        `streams` (B, ...) are true values at the new frame, which count instead of what the world foresees.
        """
        latents, step = self._advance(actions, streams=streams)
        return Dreamed(latents, step.extras["termination_probability"], step.terminated, step.reward)

    @property
    def memory_bytes(self) -> int:
        """What the memories of all dreams hold; it is the same at every step."""
        sizes: list[int] = []

        def note(name: str, leaf: Tensor) -> Tensor:
            sizes.append(leaf.nbytes)
            return leaf

        map_named(note, self._state.memory)
        return sum(sizes)

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with only these rows of the batch."""
        self._state = select_rows(self._state, rows)

    def _advance(
        self, actions: np.ndarray, frame: Tensor | None = None, streams: Streams | None = None
    ) -> tuple[Tensor, WorldStep]:
        keys, taken = self._state.keys, torch.as_tensor(np.ascontiguousarray(actions), device=self.world.device)
        self._state, output = finish(advance(self.world.engine, self._state, taken, given=frame, streams=streams))
        return output.latents, self.world.result(keys, output)


@torch.inference_mode()
def encode(world: World, frames: np.ndarray) -> Tensor:
    """(..., H, W, 3) uint8 -> latents (..., C, h, w) in the world's number format."""
    flat = torch.from_numpy(np.ascontiguousarray(frames)).flatten(0, -4)
    parts = []
    for batch in flat.split(BATCH):
        images = to_images(batch.to(world.device)).to(world.dtype)
        parts.append(world.tokenizer.encode(images.contiguous(memory_format=torch.channels_last)))
    return torch.cat(parts).unflatten(0, frames.shape[:-3])


@torch.inference_mode()
def decode(world: World, latents: Tensor) -> np.ndarray:
    """(..., C, h, w) -> frames (..., H, W, 3) uint8."""
    parts = []
    for batch in latents.flatten(0, -4).split(BATCH):
        parts.append(to_frames(world.tokenizer.decode(batch.contiguous(memory_format=torch.channels_last))).cpu())
    return torch.cat(parts).unflatten(0, latents.shape[:-3]).numpy()


def dream_along(
    world: World, frames: np.ndarray, actions: np.ndarray, ages: np.ndarray, *, context: int, seed: int
) -> Tensor:
    """Dream on from the first `context` rows of clips with the actions of the rows after them.

    `frames` (N, context or more, H, W, 3) uint8, `actions` (N, T, ...) as rows of a store, `ages` (N,) of the first
    rows -> latents of the dreamed rows (N, T - context, C, h, w).
    """
    beginning, seeds = encode(world, frames[:, :context]), range(seed, seed + len(frames))
    dreams = Dreams(world, beginning, actions[:, 1:context], ages, seeds)
    return torch.stack([dreams.step(actions[:, t]).latents[:, 0] for t in range(context, actions.shape[1])], dim=1)
