"""The two networks' halves of a step: history, then denoising. Functions of (weights, past, action, noise)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from worldsim.errors import check_bounds
from worldsim.models.dynamics import Dynamics, HistoryOut
from worldsim.models.layers import KVCache
from worldsim.models.registry import Streams
from worldsim.sampling import noise
from worldsim.sampling.noise_shaping import NoiseShaping

FINE = 16  # denoising steps that draw well without having learned to leap: with fewer, rare events come too seldom
SETTLED = 0.8  # the level from which a picture is drawn in one step


@dataclass(frozen=True)
class SamplingConfig:
    """How a step is drawn."""

    steps: int = 2  # denoising steps: 1, 2 and 4 are learned as leaps, from 16 on they are small; others lie between
    temperature: float = 1.0  # scale of the noise that a frame is drawn from: what is rare comes more often above 1
    noise_shaping: NoiseShaping | None = None  # larger noise in some patches; None: the same everywhere
    context_noise: float = 0.05  # level of noise put on the last frames, as in training; holds drift back

    def __post_init__(self) -> None:
        check_bounds("sampling", self, steps=(1, 1000), temperature=(0, 100), context_noise=(0, 1))


@dataclass(frozen=True)
class StepNoise:
    """All the noise of one step; F is the batch."""

    context: Tensor  # (F, 2, C, h, w) standard normal
    picture: Tensor  # (F, drawn, h, w) standard normal
    place: Tensor  # (F, 1, h, w) uniform from 0 to 1: what noise shaping chooses patches by


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
        torch.as_tensor(noise.uniform(*keys, noise.STREAM_SHAPING, (1, *grid))).to(weight.device),
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

    z = config.temperature * drawn_from.picture
    if config.noise_shaping is not None:
        z = config.noise_shaping.apply(z, past, seen.ages, drawn_from.place)
    return follow(predict, z, [*levels(config.steps), 1.0], small=config.steps >= FINE)


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
        """As `worldsim.sampling.sampler.look_back`."""
        ...

    def draw(self, past: Tensor, seen: HistoryOut, drawn_from: StepNoise) -> Tensor:
        """As `worldsim.sampling.sampler.draw`."""
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
        """As `worldsim.sampling.sampler.look_back`."""
        return look_back(self.dynamics, self.sampling, past, actions, cache, context, streams)

    def draw(self, past: Tensor, seen: HistoryOut, drawn_from: StepNoise) -> Tensor:
        """As `worldsim.sampling.sampler.draw`."""
        return draw(self.dynamics, self.sampling, past, seen, drawn_from)

    def with_sampling(self, sampling: SamplingConfig) -> Eager:
        """One that draws otherwise."""
        return Eager(self.dynamics, sampling)
