"""Learn the numbers before the frames: the networks of `motion`, `success` and `spread` heads, from streams alone.

A step of this costs a hundredth of a step of the whole model, and recordings without frames are good enough for it, so
that numbers are exact when frames begin to be learned; nothing of them changes then. They learn on their own
predictions, over more and more steps, so that what they foresee in a dream does not drift (as in Robotic World Model;
Li et al., 2025).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.data.episodes import Episodes
from worldsim.data.stream_cache import read_streams
from worldsim.models.dynamics import Dynamics
from worldsim.models.ensemble import SpreadHead
from worldsim.models.registry import Streams
from worldsim.models.state_heads import FlagHead, MotionHead

BATCH = 256
LONGEST = 10  # steps on own predictions, at the end
LEARNING_RATE = 3e-3
NOISE = 0.02  # on the vectors that a prediction begins with, in their deviations
Kind = TypeVar("Kind")
FAMILIAR_ROWS = 20_000  # recorded steps that the spread of an ensemble is compared with


class Numbers(Protocol):
    """Rows of episodes, T in all."""

    @property
    def streams(self) -> dict[str, np.ndarray]:
        """(T, ...) each."""
        ...

    @property
    def actions(self) -> np.ndarray:
        """(T, A) float32, the action that led to each row."""
        ...

    @property
    def ends(self) -> np.ndarray:
        """(episodes,) int64, one past the last row of each."""
        ...


@dataclass(frozen=True)
class NumberEpisodes:
    """`Numbers` of a store whose frames are of no use."""

    streams: dict[str, np.ndarray]
    actions: np.ndarray
    ends: np.ndarray

    @classmethod
    def read(cls, store: Episodes, streams: Sequence[str]) -> NumberEpisodes:
        """These streams of a store; raises InvalidInput for one that it does not have."""
        return cls(read_streams(store, streams), store.read("action", 0, store.num_steps), store.ends)


def learn_numbers(
    dynamics: Dynamics, stores: Sequence[Numbers], *, seconds: float, steps: int | None = None, seed: int = 0,
    longest: int = LONGEST,
) -> dict[str, float]:  # fmt: skip
    """Train these heads for `seconds`, or for so many `steps`, at the end over `longest` steps on own predictions.

    Gives the last losses, by the heads' names. Does nothing for a model without such heads, or where no episode is
    longer than a step.
    """
    heads = numbers_heads(dynamics)
    if not heads:
        return {}
    data = _Windows(stores, [*dynamics.config.streams])
    if not data.any:
        return {}
    parameters = [p for head in heads.values() for p in head.own_parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=1e-3)
    rng, begin, step, progress = np.random.default_rng([seed, 11]), time.monotonic(), 0, 0.0
    shown: dict[str, float] = {}
    while progress < 1:
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, (progress + 0.01) / 0.06) * 0.5 * (1 + math.cos(math.pi * progress))
        streams, actions = data.draw(rng, 1 + int(progress * (longest - 1) + 0.5))
        losses = _losses(heads, streams, actions, rng)
        optimizer.zero_grad()
        torch.stack([*losses.values()]).sum().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        progress = step / steps if steps is not None else (time.monotonic() - begin) / seconds
        shown = {name: float(loss.detach()) for name, loss in losses.items()}
    streams, actions = data.draw(rng, 1, FAMILIAR_ROWS)
    for head in _of(SpreadHead, heads).values():
        head.fit_limit({name: values[:, 0] for name, values in streams.items()}, actions[:, 0])
    return shown


NumbersHead = MotionHead | FlagHead | SpreadHead


def numbers_heads(dynamics: Dynamics) -> dict[str, NumbersHead]:
    """The heads that learn from numbers alone, by their names."""
    return {name: head for name, head in dynamics.heads.named() if isinstance(head, NumbersHead)}


def _of(kind: type[Kind], heads: Mapping[str, NumbersHead]) -> dict[str, Kind]:
    return {name: head for name, head in heads.items() if isinstance(head, kind)}


class _Windows:
    """Successive rows of episodes."""

    def __init__(self, stores: Sequence[Numbers], names: Sequence[str]) -> None:
        self.streams = {name: np.concatenate([store.streams[name] for store in stores]) for name in names}
        self.actions = np.concatenate([store.actions for store in stores])
        lengths = np.concatenate([np.diff(store.ends, prepend=0) for store in stores])
        self.left = np.concatenate([np.arange(length)[::-1] for length in lengths])  # rows to come in the episode
        self.any = bool((self.left > 0).any())

    def draw(self, rng: np.random.Generator, steps: int, count: int = BATCH) -> tuple[Streams, Tensor]:
        """Streams (B, S + 1, ...) and the actions (B, S, A) between them; S is `steps`, or what the longest has."""
        steps = min(steps, int(self.left.max()))
        first = rng.choice(np.flatnonzero(self.left >= steps), count)
        rows = first[:, None] + np.arange(steps + 1)
        streams = {name: torch.from_numpy(values[rows]) for name, values in self.streams.items()}
        return streams, torch.from_numpy(self.actions[rows[:, 1:]])


def _losses(
    heads: Mapping[str, NumbersHead], streams: Streams, actions: Tensor, rng: np.random.Generator
) -> dict[str, Tensor]:
    """The mean loss of each head along the window, on what the heads themselves foresee."""
    motions, flags, spreads = _of(MotionHead, heads), _of(FlagHead, heads), _of(SpreadHead, heads)
    state = {name: values[:, 0] for name, values in streams.items()}
    for motion in motions.values():
        noise = torch.from_numpy(rng.standard_normal(state[motion.stream].shape, np.float32))
        state[motion.stream] = motion.normalise.undo(motion.normalise(state[motion.stream].float()) + NOISE * noise)
    count = actions.shape[1]
    losses = {name: torch.zeros(()) for name in heads}
    read = next(iter(heads.values())).numbers  # the same for all of them
    now, recorded = read(state), read({name: values[:, 0] for name, values in streams.items()})
    for t in range(count):
        said = {name: head.foresee(state, actions[:, t], now) for name, head in motions.items()}
        came = {name: values[:, t + 1] for name, values in streams.items()}
        for name, motion in motions.items():
            wanted = motion.normalise(came[motion.stream].flatten(1).float())
            losses[name] = losses[name] + (said[name] - wanted).square().mean() / count
        for name, spread in spreads.items():  # one step from what was recorded: it is to tell that from the rest
            out = spread.foresee({spread.stream: streams[spread.stream][:, t]}, actions[:, t], recorded)
            wanted = spread.normalise(came[spread.stream].flatten(1).float())[:, None]
            losses[name] = losses[name] + (out - wanted).square().mean() / count
        state = dict(came)
        for name, motion in motions.items():
            state |= motion.sample(said[name])
        now, recorded = read(state), read(came)
        for name, flag in flags.items():
            wanted = came[flag.stream].float()
            for seen in (recorded, now.detach()):
                error = F.binary_cross_entropy_with_logits(flag.judge({}, seen), wanted)
                losses[name] = losses[name] + error / (2 * count)
    return losses
