"""The history's memory while serving: a ring of keys and values with a sink, preallocated and never moved.

Slot 0 (the sink) keeps an episode's first step for good; the `window` slots after it are a ring. Every world of a
batch has its own clock, so that one can restart while the others go on. Distances beyond the window read as the
window's, just what a training clip's first step looks like from its last, so nothing happens when the ring is full.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Place:
    """Where the step that is being computed goes, and how far away every slot is from it; T is 1."""

    rows: Tensor  # (B, 1) int64, 0..B-1
    slot: Tensor  # (B, T) int64
    distance: Tensor  # (B, T, S) int64, clamped to the window
    hidden: Tensor  # (B, T, S) bool: empty

    def bias(self, table: Tensor) -> Tensor:
        """Attention bias (B, H, T, S) from a block's table (H, window + 1)."""
        bias = table[:, self.distance].transpose(0, 1)
        return bias.masked_fill(self.hidden[:, None], -math.inf)


@dataclass
class KVCache:
    """Keys and values of every history block, (B, N, H, S, C) with S = window + 1 slots, and each world's clock."""

    keys: list[Tensor]
    values: list[Tensor]
    time: Tensor  # (B,) int64: steps written so far
    written: Tensor  # (B, S) int64: the step that each slot holds; -1 when empty
    first: Tensor  # (B,) int64: steps of the episode before the first one that was written

    @classmethod
    def empty(
        cls, first: Tensor, blocks: int, tokens: int, heads: int, window: int, head_dim: int,
        *, dtype: torch.dtype, device: torch.device,
    ) -> KVCache:  # fmt: skip
        """A cache in which nothing has been written; `first` (B,) int64 as above."""
        batch = len(first)
        shape = (batch, tokens, heads, window + 1, head_dim)
        make = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(2 * blocks)]
        time = torch.zeros(batch, dtype=torch.int64, device=device)
        written = torch.full((batch, window + 1), -1, dtype=torch.int64, device=device)
        return cls(make[:blocks], make[blocks:], time, written, first.to(device, torch.int64))

    @property
    def ages(self) -> Tensor:
        """Steps since the beginning of each world's episode, (B,) int64."""
        return self.first + self.time

    def claim(self) -> Place:
        """Take the next slot of every world and advance the clocks."""
        window = self.written.shape[1] - 1
        rows = torch.arange(self.time.shape[0], device=self.time.device)[:, None]
        times = self.time[:, None]  # (B, T)
        slot = torch.where(times == 0, 0, 1 + (times - 1) % window)
        self.written[rows, slot] = times
        distance = times[:, :, None] - self.written[:, None]
        place = Place(rows, slot, distance.clamp(0, window), (self.written < 0)[:, None])
        self.time = self.time + 1
        return place

    def write(self, block: int, place: Place, k_BTNHC: Tensor, v_BTNHC: Tensor) -> tuple[Tensor, Tensor]:
        """Store this step's keys and values; returns all of the block's, (B, N, H, S, C)."""
        self.keys[block][place.rows, :, :, place.slot] = k_BTNHC
        self.values[block][place.rows, :, :, place.slot] = v_BTNHC
        return self.keys[block], self.values[block]
