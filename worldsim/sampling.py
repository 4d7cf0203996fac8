"""The two networks' halves of a step: history, then denoising. Functions of (weights, past, action, noise)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim import noise
from worldsim.errors import InvalidInput, check_bounds
from worldsim.models.cache import KVCache
from worldsim.models.dynamics import Dynamics, HistoryOut
from worldsim.models.registry import Streams

FINE = 16  # denoising steps that draw well without having learned to leap: with fewer, rare events come too seldom
SETTLED = 0.8  # the level from which a picture is drawn in one step


@dataclass(frozen=True)
class SamplingConfig:
    """How a step is drawn."""

    steps: int = 2  # denoising steps: 1, 2 and 4 are learned as leaps, from 16 on they are small; others lie between
    temperature: float = 1.0  # size of the noise that a picture is drawn from: what is rare comes more often above 1
    # Chance of a place to be the middle of a patch of three by three with twice the noise, for each unit of length by
    # which the latents of a place last changed, in the mean over places.
    surprise: float = 0.0
    surprise_growth: float = 0.0  # by what share of itself `surprise` grows with every step of an episode
    surprise_rows: tuple[int, int] | None = None  # of latents, the first and the one after the last with such middles
    spared: float = 9.0  # length of latents beyond which they, and their neighbours, are left without surprise
    context_noise: float = 0.05  # level of noise put on the last frames, as in training; holds drift back

    def __post_init__(self) -> None:
        check_bounds(
            "sampling", self, steps=(1, 1000), temperature=(0, 100), surprise=(0, 1), surprise_growth=(0, 1000),
            spared=(0, 1e6), context_noise=(0, 1),
        )  # fmt: skip
        rows = self.surprise_rows
        if rows is not None and not (len(rows) == 2 and 0 <= rows[0] < rows[1]):
            raise InvalidInput(
                f"sampling surprise_rows is {rows}; give the first, 0 or more, and the one after the last"
            )


@dataclass(frozen=True)
class StepNoise:
    """All the noise of one step; F is the batch."""

    context: Tensor  # (F, 2, C, h, w) standard normal
    picture: Tensor  # (F, drawn, h, w) standard normal
    place: Tensor  # (F, 1, h, w) uniform from 0 to 1: where the picture's noise is larger


def empty_cache(dynamics: Dynamics, ages: Tensor) -> KVCache:
    """A cache for a batch of worlds of some ages (B,) int64, in the weights' number format and on their device."""
    c, weight = dynamics.config, dynamics.place
    return KVCache.empty(
        ages, c.history_blocks, c.tokens, c.heads, c.window, c.dim // c.heads, dtype=weight.dtype, device=weight.device
    )


def step_noise(dynamics: Dynamics, seeds: Tensor, episodes: Tensor, steps: Tensor) -> StepNoise:
    """The noise of one step for every world of a batch: a function of (seed, episode, step)."""
    c, weight = dynamics.config, dynamics.place
    grid = (c.height, c.width)
    keys = (seeds.tolist(), episodes.tolist(), steps.tolist())

    def to_weights(array: object) -> Tensor:
        return torch.as_tensor(array).to(weight.device, weight.dtype)

    return StepNoise(
        to_weights(noise.normal(*keys, noise.STREAM_CONTEXT, (2, c.channels, *grid))),
        to_weights(noise.normal(*keys, noise.STREAM_PICTURE, (c.drawn_channels, *grid))),
        torch.as_tensor(noise.uniform(*keys, noise.STREAM_SURPRISE, (1, *grid))).to(weight.device),
    )


def look_back(
    dynamics: Dynamics,
    config: SamplingConfig,
    past: Tensor,
    actions: Tensor,
    cache: KVCache,
    context: Tensor,
    streams: Streams | None = None,
) -> HistoryOut:
    """The history's part of a step: reads the cache, writes into it.

    `past` (F, 2, C, h, w) has the last frame's latents and those of the frame before, `streams` the last frame's values
    of what else the model reads. The noise `context` that is put on the latents stays in the cache: what is drawn does
    not carry it on.
    """
    noisy = past + config.context_noise * context
    level = torch.full(past.shape[:1], config.context_noise, device=past.device)
    return dynamics.advance(noisy[:, 0], noisy[:, 1], actions, level, cache, streams)


def draw(dynamics: Dynamics, config: SamplingConfig, past: Tensor, seen: HistoryOut, drawn_from: StepNoise) -> Tensor:
    """The frame from noise, along the flow between them.

    -> (F, drawn, h, w): the new frame's latents first, then those of the intermediate frames, oldest first.
    """
    canvas = dynamics.prepare(seen, past[:, 0])
    leap = torch.full(past.shape[:1], leap_of(config.steps), device=past.device)

    def predict(z: Tensor, tau: float) -> Tensor:
        return dynamics.denoise(canvas, z, torch.full(past.shape[:1], tau, device=past.device), leap)

    taus = [*levels(config.steps), 1.0]
    return follow(predict, first_noise(config, past, seen.ages, drawn_from), taus, small=config.steps >= FINE)


def first_noise(config: SamplingConfig, past: Tensor, ages: Tensor, drawn_from: StepNoise) -> Tensor:
    """What a picture is drawn from, (F, drawn, h, w); `ages` (F,) are steps since the beginning of the episode.

    Noise with heavy tails makes what is rare more frequent and leaves the rest as it is (compare Pandey et al., 2024,
    "Heavy-tailed diffusion models"); a higher temperature makes all of the picture less certain. The more of a picture
    moves, the more seldom does something new come of plain noise, and the more places are surprised; and so they are
    the later it is in a game, where more happens than the weights alone draw. What is there already is spared, lest it
    vanish: thrown things have longer latents than what stands. Surprised rows from which nothing comes in a game make
    what is never there, such as fireballs in mid-air.
    """
    z = config.temperature * drawn_from.picture
    if not config.surprise:
        return z
    last, before = past.unbind(1)  # (F, C, h, w)
    motion = torch.linalg.vector_norm(last - before, dim=1, keepdim=True).mean((2, 3), keepdim=True)
    rate = config.surprise * (1 + config.surprise_growth * ages[:, None, None, None])
    middles = drawn_from.place < rate * motion  # (F, 1, h, w)
    if config.surprise_rows is not None:
        first, stop = config.surprise_rows
        middles[:, :, :first] = False
        middles[:, :, stop:] = False
    surprised = _around(middles)
    spared = _around(torch.linalg.vector_norm(last, dim=1, keepdim=True) > config.spared)
    return torch.where(surprised & ~spared, 2 * z, z)


def _around(places: Tensor) -> Tensor:
    """The places (F, 1, h, w) and their neighbours."""
    return F.max_pool2d(places.float(), 3, stride=1, padding=1) > 0


def follow(predict: Callable[[Tensor, float], Tensor], z: Tensor, taus: list[float], *, small: bool) -> Tensor:
    """From `z` at level taus[0] to level taus[-1], by one prediction of the clean latents at each level between.

    Leaps are straight lines. Small steps look at how the prediction changed from the level before (DPM-Solver++ 2M,
    Lu et al., 2022): straight ones, 16 of them, draw what is rare a quarter too seldom.
    """
    before: tuple[float, Tensor] | None = None
    for tau, after in pairwise(taus):
        clean = predict(z, tau)
        if after == 1.0:
            return clean  # the last step lands on the prediction itself
        ahead = clean
        if small and before is not None and before[0] > 0:
            reach = (_log_ratio(after) - _log_ratio(tau)) / (_log_ratio(tau) - _log_ratio(before[0]))
            ahead = clean + (clean - before[1]) * (reach / 2)
        z = toward(z, ahead, tau, after)
        before = tau, clean
    return z


def toward(z: Tensor, clean: Tensor, tau: float, after: float) -> Tensor:
    """Go from level `tau` to level `after` on the straight line to the prediction."""
    return z + (clean - z) * ((after - tau) / (1 - tau))


def _log_ratio(tau: float) -> float:
    """Of picture to noise, at a level between 0 and 1."""
    return math.log(tau / (1 - tau))


def levels(steps: int) -> list[float]:
    """The level each denoising step begins at, from 0 (noise) towards 1 (picture).

    They lie closer where there is more noise: what is rare and small is decided there. What has not come by SETTLED
    must not come any more: small steps beyond it let traces grow to things that never were.
    """
    return [SETTLED * (k / steps) ** 1.5 for k in range(steps)]


def leap_of(steps: int) -> float:
    """The share of the way that one of so many denoising steps goes; 0 from FINE on: as plain small steps."""
    return 1.0 / steps if steps < FINE else 0.0


class Engine(Protocol):
    """What computes the two halves of a step: functions of their arguments; the cache is read and written."""

    @property
    def dynamics(self) -> Dynamics:
        """The weights."""
        ...

    @property
    def eager(self) -> Eager:
        """The same, as it is written: for what is computed once and pays no compiler."""
        ...

    def look_back(self, past: Tensor, actions: Tensor, cache: KVCache, context: Tensor, streams: Streams) -> HistoryOut:
        """As `worldsim.sampling.look_back`."""
        ...

    def draw(self, past: Tensor, seen: HistoryOut, drawn_from: StepNoise) -> Tensor:
        """As `worldsim.sampling.draw`."""
        ...

    def with_sampling(self, sampling: SamplingConfig) -> Engine:
        """One that draws otherwise."""
        ...


@dataclass(frozen=True)
class Eager:
    """PyTorch's own kernels, one call after the other."""

    dynamics: Dynamics
    sampling: SamplingConfig

    @property
    def eager(self) -> Eager:
        """This one."""
        return self

    def look_back(self, past: Tensor, actions: Tensor, cache: KVCache, context: Tensor, streams: Streams) -> HistoryOut:
        """As `worldsim.sampling.look_back`."""
        return look_back(self.dynamics, self.sampling, past, actions, cache, context, streams)

    def draw(self, past: Tensor, seen: HistoryOut, drawn_from: StepNoise) -> Tensor:
        """As `worldsim.sampling.draw`."""
        return draw(self.dynamics, self.sampling, past, seen, drawn_from)

    def with_sampling(self, sampling: SamplingConfig) -> Eager:
        """One that draws otherwise."""
        return Eager(self.dynamics, sampling)
