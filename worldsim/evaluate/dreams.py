"""Many dreams at once, as latents: pictures are decoded only where a measurement looks at them.

A dream here is what `World.reset(frames=…)` and `World.step` make of the same context, actions and seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worldsim import noise
from worldsim.models.tokenizer import to_frames, to_pictures
from worldsim.sampling import StepNoise, empty_cache, look_back, sample_step, step_noise
from worldsim.tree import select_rows
from worldsim.world import World

BATCH = 64  # pictures encoded or decoded at a time


@dataclass(frozen=True)
class Dreamed:
    """One step of B dreams."""

    latents: Tensor  # (B, 1 + between, C, h, w): the new frame, then the pictures before it
    end_probability: np.ndarray  # (B,) float32
    ended: np.ndarray  # (B,) bool, drawn with that probability


class Dreams:
    """A batch of dreams that are stepped together; the dreams of one seed are the same in any batch."""

    def __init__(
        self, world: World, context: Tensor, actions: np.ndarray, ages: np.ndarray, seeds: Sequence[int]
    ) -> None:
        """Read `context` (B, T, C, h, w), T >= 1, and the `actions` (B, T - 1, ...) between its rows.

        `ages` (B,): steps from the beginning of the episode to the first row.
        """
        self.world = world
        self._past = torch.stack([context[:, 0], context[:, 0]], dim=1)
        self._cache = empty_cache(world.dynamics, torch.as_tensor(ages))
        self._streams = world.usual_streams(len(context))  # what the recording says of them is not looked at
        self._seeds = torch.tensor(list(seeds), dtype=torch.int64)
        self._time = 0
        for t in range(1, context.shape[1]):
            self.observe(context[:, t], actions[:, t - 1])

    @torch.inference_mode()
    def observe(self, frame: Tensor, actions: np.ndarray) -> np.ndarray:
        """Take the true next frame's latents (B, C, h, w); returns how likely an ending was, (B,) float32."""
        world = self.world
        drawn_from = self._noise()
        seen = look_back(
            world.dynamics,
            world.config.sampling,
            self._past,
            self._on_device(actions),
            self._cache,
            drawn_from.context,
            self._streams,
        )
        self._streams = self._streams | world.dynamics.heads.sample(seen.heads)
        self._advance(frame)
        return world.config.endings.chance(seen.end_logit).cpu().numpy()

    @torch.inference_mode()
    def step(self, actions: np.ndarray) -> Dreamed:
        """Advance every dream by one action, (B,) int64 or (B, A) float32."""
        world = self.world
        drawn = sample_step(
            world.dynamics,
            world.config.sampling,
            self._past,
            self._on_device(actions),
            self._cache,
            self._noise(),
            self._streams,
        )
        self._streams = self._streams | drawn.streams
        probability = world.config.endings.chance(drawn.end_logit).cpu().numpy()
        ended = noise.uniform(*self._keys(), noise.STREAM_END, ()) < probability
        latents = drawn.latents.unflatten(1, (-1, world.config.tokenizer.channels))
        self._advance(latents[:, 0])
        return Dreamed(latents, probability, ended)

    @torch.inference_mode()
    def keep(self, rows: Sequence[int]) -> None:
        """Go on with only these rows of the batch."""
        self._past, self._cache = self._past[list(rows)], select_rows(self._cache, rows)
        self._streams = select_rows(self._streams, rows)
        self._seeds = self._seeds[list(rows)]

    def _advance(self, frame: Tensor) -> None:
        self._past = torch.stack([frame, self._past[:, 0]], dim=1)
        self._time += 1

    def _keys(self) -> tuple[list[int], list[int], list[int]]:
        count = len(self._seeds)
        return self._seeds.tolist(), [0] * count, [self._time] * count

    def _noise(self) -> StepNoise:
        seeds, episodes, steps = (torch.tensor(keys, dtype=torch.int64) for keys in self._keys())
        return step_noise(self.world.dynamics, seeds, episodes, steps)

    def _on_device(self, actions: np.ndarray) -> Tensor:
        return torch.as_tensor(np.ascontiguousarray(actions), device=self.world.device)


@torch.inference_mode()
def encode(world: World, frames: np.ndarray) -> Tensor:
    """(..., H, W, 3) uint8 -> latents (..., C, h, w) in the world's number format."""
    flat = torch.from_numpy(np.ascontiguousarray(frames)).flatten(0, -4)
    parts = []
    for batch in flat.split(BATCH):
        pictures = to_pictures(batch.to(world.device)).to(world.dtype)
        parts.append(world.tokenizer.encode(pictures.contiguous(memory_format=torch.channels_last)))
    return torch.cat(parts).unflatten(0, frames.shape[:-3])


@torch.inference_mode()
def decode(world: World, latents: Tensor) -> np.ndarray:
    """(..., C, h, w) -> pictures (..., H, W, 3) uint8."""
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
    start, seeds = encode(world, frames[:, :context]), range(seed, seed + len(frames))
    dreams = Dreams(world, start, actions[:, 1:context], ages, seeds)
    return torch.stack([dreams.step(actions[:, t]).latents[:, 0] for t in range(context, actions.shape[1])], dim=1)
