"""Retrieval as context: latents of past frames, recalled by pose or by likeness, that the history attends to.

For what geometry does not carry. Frames are kept every few steps in a ring; recalled are those seen nearest to where
the next frame will be seen from and, where a world has no poses, those most like the last frame as a whole (the global
state of VRAG, Chen et al., 2025; poses as WorldKV indexes its keys). Only frames that have left the recent context are
recalled: retrieved duplicates of what is in the window cost quality.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.errors import InvalidInput, check_bounds
from worldsim.memory.base import Context, MemorySpec, Observed, Query
from worldsim.models.dynamics import DynamicsConfig
from worldsim.models.layers import patches
from worldsim.models.memories import memories
from worldsim.models.registry import options_of

PLACE = 6  # numbers of a token besides its latents: row, column, and where its frame was seen from
Ring = dict[str, Tensor]
# latents (B, S, C, h, w) float16, pose (B, S, 4), step and stamp (B, S) int64 of S = capacity + 1 slots; count (B,)


@dataclass(frozen=True)
class RecallOptions:
    """What is kept and recalled."""

    capacity: int = 64  # frames
    every: int = 8  # steps between frames that are kept
    recall: int = 2  # frames recalled at a step
    recent: int = 16  # steps that a frame has to lie back to be recalled
    pose: str = "pose"  # stream of poses (x, y, z, yaw); "" where there are none: by likeness
    near: float = 64.0  # units of the pose that count as much as `turn`
    turn: float = 0.5  # radians

    def __post_init__(self) -> None:
        count = (1, 100_000)
        check_bounds(
            "recall", self, capacity=count, every=count, recall=count, recent=(0, 1e9), near=(1e-9, 1e9), turn=(1e-9, 7)
        )


@memories.register("recall")
class Recall(nn.Module):
    """The memory "recall": tokens of recalled frames."""

    def __init__(self, config: DynamicsConfig, stream: str) -> None:
        super().__init__()
        o = self.options = options_of(config, "recall", stream, RecallOptions)
        if o.pose and o.pose not in config.streams:
            raise InvalidInput(f"recall by the stream {o.pose!r}, which the world lacks; train with it, or pose = ''")
        self.shape, self.patch = (config.channels, config.height, config.width), config.patch
        self.rows = config.height // config.patch[0]
        self.spec = MemorySpec(tokens=config.channels * config.patch[0] * config.patch[1] + PLACE)

    def empty(self, batch: int) -> Ring:
        """As `Memory.empty`."""
        slots = self.options.capacity + 1
        return {
            "latents": torch.zeros(batch, slots, *self.shape, dtype=torch.float16),
            "pose": torch.zeros(batch, slots, 4),
            "step": torch.full((batch, slots), -1),
            "stamp": torch.full((batch, slots), -1),
            "count": torch.zeros(batch, dtype=torch.int64),
        }

    def write(self, tree: Ring, observed: Observed) -> Ring:
        """As `Memory.write`: into a slot that the tree before does not read."""
        o, count = self.options, tree["count"]
        rows = torch.arange(len(count), device=count.device)
        slot, kept = count % (o.capacity + 1), observed.episode_step % o.every == 0
        tree["latents"][rows, slot] = observed.latents.detach().to(torch.float16)
        pose, step, stamp = (tree[name].clone() for name in ("pose", "step", "stamp"))
        if o.pose:
            pose[rows, slot] = observed.streams[o.pose].float()
        step[rows, slot], stamp[rows, slot] = observed.episode_step, torch.where(kept, count, -1)
        return {**tree, "pose": pose, "step": step, "stamp": stamp, "count": count + kept}

    def read(self, tree: Ring, query: Query) -> Context:
        """As `Memory.read`."""
        o, count = self.options, tree["count"][:, None]
        there = (tree["stamp"] >= 0) & (tree["stamp"] >= count - o.capacity) & (tree["stamp"] < count)
        there &= tree["step"] <= query.episode_step[:, None] - o.recent
        place = self._place(tree, query)  # (B, S, 4)
        if o.pose:
            turn = torch.atan2(place[..., 3], place[..., 2]).abs()
            score = -(place[..., :2].norm(dim=-1) + turn / o.turn)
        else:
            score = F.cosine_similarity(_whole(tree["latents"]), _whole(query.latents)[:, None], dim=-1)
        best = score.masked_fill(~there, -torch.inf).topk(min(o.recall, score.shape[1]), dim=1).indices  # (B, K)
        rows = torch.arange(len(best), device=best.device)[:, None]
        tokens = patches(tree["latents"][rows, best].float().flatten(0, 1), self.patch)  # (B * K, N, C * cells)
        number = torch.arange(tokens.shape[1], device=tokens.device)
        columns = tokens.shape[1] // self.rows
        grid = torch.stack([(number // columns) / self.rows, (number % columns) / columns], -1)
        where = place[rows, best].flatten(0, 1)[:, None].expand(-1, tokens.shape[1], -1)
        tokens = torch.cat([tokens, grid.expand(len(tokens), -1, -1), where], -1)
        heard = there.gather(1, best).repeat_interleave(tokens.shape[1], dim=1)
        return Context(tokens=tokens.unflatten(0, best.shape).flatten(1, 2), heard=heard)

    def _place(self, tree: Ring, query: Query) -> Tensor:
        """Where frames were seen from, as the next pose sees it: ahead, left (in `near`), cosine, sine of the turn."""
        o, pose = self.options, tree["pose"]
        if not o.pose:
            return torch.zeros_like(pose)
        if o.pose not in query.predicted:
            raise InvalidInput(f"recall reads at the next {o.pose!r}, which no head foresees; add one, or pose = ''")
        here = query.predicted[o.pose].float()[:, None]
        cos, sin = torch.cos(here[..., 3]), torch.sin(here[..., 3])
        east, north = pose[..., 0] - here[..., 0], pose[..., 1] - here[..., 1]
        turn = pose[..., 3] - here[..., 3]
        ahead, left = (east * cos + north * sin) / o.near, (north * cos - east * sin) / o.near
        return torch.stack([ahead, left, torch.cos(turn), torch.sin(turn)], -1)


def _whole(latents: Tensor) -> Tensor:
    """What a frame (..., C, h, w) is as a whole, (..., C): its mean."""
    return latents.float().mean((-2, -1))
