"""What draws the actions of a world that acts: action tokens of its own, or a network that lies beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from worldsim.io.folders import find_world
from worldsim.models.action_tokens import ActionTokens, Known
from worldsim.models.layers import KVCache
from worldsim.models.registry import Streams
from worldsim.sampling.acting import acting_step, imagine
from worldsim.sampling.noise import STREAM_ACTIONS, STREAM_CONTEXT, STREAM_FRAME, STREAM_NEXT, normal
from worldsim.sampling.sampler import empty_cache
from worldsim.state.tree import clone
from worldsim.train.actions_task import load_actions
from worldsim.world import World


@dataclass(frozen=True)
class Moment:
    """What a policy sees at one step of B episodes."""

    frame: Tensor  # (B, C, h, w), latents
    streams: Streams  # (B, ...)
    seeds: list[int]  # B numbers, of each episode
    time: int  # steps since the beginning

    def noise(self, stream: int, shape: tuple[int, ...]) -> Tensor:
        """Standard normal (B, *shape), a function of seeds and time."""
        rows = len(self.seeds)
        drawn = normal(self.seeds, [0] * rows, [self.time] * rows, stream, shape)
        return torch.from_numpy(drawn).to(self.frame.device)


class Actor(Protocol):
    """Draws the next actions of what it has seen; `past` is its own, None at the beginning of episodes."""

    chunk: int  # actions that are drawn together
    streams: tuple[str, ...]  # what it reads besides frames

    def look(self, moment: Moment, past: Any) -> tuple[Any, Any]:
        """What there is to act on, and the past of the next step; what it is given stays as it is."""
        ...

    def act(self, moment: Moment, seen: Any, outcome: int) -> Tensor:
        """Actions (B, chunk, A), as the simulator takes them, that are to lead to an outcome."""
        ...


def actor_of(world: World, path: str | Path) -> Actor:
    """What acts in the world of `path`: the world itself, where it can; raises InvalidInput where nothing does."""
    if world.dynamics.acting is not None:
        return WholeWorld(world)
    return Beside(load_actions(world, find_world(path)))


class WholeWorld:
    """The world's own action tokens: the next frame is imagined together with the actions that lead there."""

    def __init__(self, world: World) -> None:
        self._dynamics, self._sampling, self._dtype = world.dynamics, world.sampling, world.dtype
        self.chunk, self.streams = world.config.dynamics.action_tokens, streams_read(world)

    def look(self, moment: Moment, past: tuple[Tensor, KVCache] | None) -> tuple[Any, tuple[Tensor, KVCache]]:
        """As `Actor.look`: one step of the history, which does not see actions."""
        frame = moment.frame.to(self._dtype)
        if past is None:
            past = frame, empty_cache(self._dynamics, torch.zeros(len(frame), dtype=torch.int64))
        before, cache = past[0], clone(past[1])
        noise = moment.noise(STREAM_CONTEXT, (2, *frame.shape[1:])).to(self._dtype)
        frames = torch.stack([frame, before], dim=1)
        seen = acting_step(self._dynamics, self._sampling, frames, cache, noise, moment.streams)
        return seen, (frame, cache)

    def act(self, moment: Moment, seen: Any, outcome: int) -> Tensor:
        """As `Actor.act`."""
        c = self._dynamics.config
        frame_noise = moment.noise(STREAM_FRAME, (c.drawn_channels, c.height, c.width))
        action_noise = moment.noise(STREAM_ACTIONS, (c.action_tokens, c.action_dim))
        previous = moment.frame.to(self._dtype)
        return imagine(
            self._dynamics, self._sampling, seen, previous, frame_noise, action_noise, outcome=outcome
        ).actions


class Beside:
    """A network beside the world (`worldsim train actions`), which sees the last two frames."""

    def __init__(self, tokens: ActionTokens) -> None:
        self._tokens, self.chunk, self.streams = tokens, tokens.config.chunk, tokens.config.streams

    def look(self, moment: Moment, past: Tensor | None) -> tuple[Any, Tensor]:
        """As `Actor.look`."""
        return moment.frame if past is None else past, moment.frame

    def act(self, moment: Moment, seen: Any, outcome: int) -> Tensor:
        """As `Actor.act`."""
        frame, count = moment.frame, len(moment.frame)
        known = Known(
            frame, seen, moment.streams, torch.ones(count, dtype=torch.bool, device=frame.device),
            moment.noise(STREAM_NEXT, tuple(frame.shape[1:])), torch.zeros(count, device=frame.device),
            torch.full((count,), outcome, device=frame.device),
        )  # fmt: skip
        return self._tokens.draw(known, moment.noise(STREAM_ACTIONS, (self._tokens.numbers_drawn,)))


def streams_read(world: World) -> tuple[str, ...]:
    """The streams that the history of a world reads: vectors, and tokens that are conditions."""
    c = world.config.dynamics
    conditions = {stream or kind for kind, _, stream in (name.partition(":") for name in c.conditions)}
    return tuple(name for name, spec in c.streams.items() if spec.kind == "vector" or name in conditions)


def by_seed(seeds: Sequence[int], rows: int) -> list[int]:
    """A number for each of so many episodes."""
    return [seeds[row % len(seeds)] for row in range(rows)]
