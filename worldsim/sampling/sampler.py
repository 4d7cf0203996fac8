"""The two networks' halves of a step: history, then denoising. Functions of (weights, past, action, noise)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from worldsim.errors import check_bounds
from worldsim.models.carried import CarriedHeads
from worldsim.models.dynamics import ContextFeatures, Dynamics
from worldsim.models.layers import KVCache
from worldsim.models.registry import Streams
from worldsim.sampling.noise import STREAM_CONTEXT, STREAM_FRAME, STREAM_SHAPING, normal, uniform
from worldsim.sampling.noise_shaping import NoiseShaping

TEACHER_STEPS = 16  # plain denoising steps that draw well; with fewer, rare events come too seldom
MAX_T = 0.8  # the level from which a frame is drawn in one step


@dataclass(frozen=True)
class SamplingConfig:
    """How a step is drawn."""

    steps: int = 2  # denoising steps: 1, 2 and 4 are learned as shortcuts, from 16 on they are small
    temperature: float = 1.0  # scale of the noise that a frame is drawn from: what is rare comes more often above 1
    noise_shaping: NoiseShaping | None = None  # larger noise in some patches; None: the same everywhere
    context_noise: float = 0.05  # level of noise put on the last frames, as in training; holds drift back
    memory: bool = True  # whether memories, where there are any, are read; they are written in any case

    def __post_init__(self) -> None:
        check_bounds("sampling", self, steps=(1, 1000), temperature=(0, 100), context_noise=(0, 1))


@dataclass(frozen=True)
class StepNoise:
    """All the noise of one step; F is the batch."""

    context: Tensor  # (F, 2, C, h, w) standard normal
    frame: Tensor  # (F, drawn, h, w) standard normal
    shaping: Tensor  # (F, 1, h, w) uniform from 0 to 1: what noise shaping chooses patches by


def empty_cache(dynamics: Dynamics, ages: Tensor) -> KVCache:
    """A cache for a batch of worlds of some ages (B,) int64, in the weights' number format and on their device."""
    c, weight = dynamics.config, dynamics.position
    return KVCache.empty(
        ages, c.history_blocks, c.tokens, c.heads, c.context_length, c.dim // c.heads,
        dtype=weight.dtype, device=weight.device,
    )  # fmt: skip


def step_noise(dynamics: Dynamics, seeds: Tensor, episodes: Tensor, steps: Tensor) -> StepNoise:
    """The noise of one step for every world of a batch: a function of (seed, episode, step)."""
    c, weight = dynamics.config, dynamics.position
    grid = (c.height, c.width)
    keys = (seeds.tolist(), episodes.tolist(), steps.tolist())

    def to_weights(array: object) -> Tensor:
        return torch.as_tensor(array).to(weight.device, weight.dtype)

    return StepNoise(
        to_weights(normal(*keys, STREAM_CONTEXT, (2, c.channels, *grid))),
        to_weights(normal(*keys, STREAM_FRAME, (c.drawn_channels, *grid))),
        torch.as_tensor(uniform(*keys, STREAM_SHAPING, (1, *grid))).to(weight.device),
    )


def context_step(
    dynamics: Dynamics,
    config: SamplingConfig,
    past: Tensor,
    actions: Tensor,
    cache: KVCache,
    context: Tensor,
    streams: Streams | None = None,
    known: Tensor | None = None,
) -> ContextFeatures:
    """The history's part of a step: reads the cache, writes into it.

    `past` (F, 2, C, h, w) has the last frame's latents and those of the frame before, `streams` the last frame's values
    of what else the model reads. The noise `context` that is put on the latents stays in the cache: what is drawn does
    not carry it on. `known` (F,) says whose actions are known, as in `Dynamics.forward`.
    """
    noisy = past + config.context_noise * context
    level = torch.full(past.shape[:1], config.context_noise, device=past.device)
    return dynamics.forward_cached(noisy[:, 0], noisy[:, 1], actions, level, cache, streams, known)


def draw(
    dynamics: Dynamics, config: SamplingConfig, past: Tensor, features: ContextFeatures, noise: StepNoise
) -> Tensor:
    """The frame from noise, along the flow between them.

    -> (F, drawn, h, w): the new frame's latents first, then those of the intermediate frames, oldest first.
    """
    canvas = dynamics.prepare(features, past[:, 0])
    size = torch.full(past.shape[:1], step_size(config.steps), device=past.device)

    def predict(z: Tensor, t: float) -> Tensor:
        return dynamics.limited(dynamics.denoise(canvas, z, torch.full(past.shape[:1], t, device=past.device), size))

    z = config.temperature * noise.frame
    if config.noise_shaping is not None:
        z = config.noise_shaping.apply(z, past, features.ages, noise.shaping)
    return solve_ode(predict, z, [*levels(config.steps), 1.0], small=config.steps >= TEACHER_STEPS)


def solve_ode(predict: Callable[[Tensor, float], Tensor], z: Tensor, times: list[float], *, small: bool) -> Tensor:
    """From `z` at level times[0] to level times[-1], by one prediction of the clean latents at each level between.

    Shortcut steps are straight lines. Small steps look at how the prediction changed from the level before
    (DPM-Solver++ 2M, Lu et al., 2022): straight ones, 16 of them, draw what is rare a quarter too seldom.
    """
    before: tuple[float, Tensor] | None = None
    for t, after in pairwise(times):
        clean = predict(z, t)
        if after == 1.0:
            return clean  # the last step lands on the prediction itself
        ahead = clean
        if small and before is not None and before[0] > 0:
            reach = (_log_ratio(after) - _log_ratio(t)) / (_log_ratio(t) - _log_ratio(before[0]))
            ahead = clean + (clean - before[1]) * (reach / 2)
        z = euler_step(z, ahead, t, after)
        before = t, clean
    return z


def euler_step(z: Tensor, clean: Tensor, t: float, after: float) -> Tensor:
    """Go from level `t` to level `after` on the straight line to the prediction."""
    return z + (clean - z) * ((after - t) / (1 - t))


def _log_ratio(t: float) -> float:
    """Of frame to noise, at a level between 0 and 1."""
    return math.log(t / (1 - t))


def levels(steps: int) -> list[float]:
    """The level each denoising step begins at, from 0 (noise) towards 1 (frame).

    They lie closer where there is more noise: what is rare and small is decided there. What has not come by MAX_T
    must not come any more: small steps beyond it let traces grow to things that never were.
    """
    return [MAX_T * (k / steps) ** 1.5 for k in range(steps)]


def step_size(steps: int) -> float:
    """The share of the way that one of so many denoising steps goes; 0 from TEACHER_STEPS on: as plain small steps."""
    return 1.0 / steps if steps < TEACHER_STEPS else 0.0


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

    @property
    def carried(self) -> CarriedHeads:
        """Heads that come after the frame, with weights of their own; none in most worlds."""
        ...

    def with_heads(self, carried: CarriedHeads) -> Engine:
        """The same, with these heads after the frame."""
        ...

    def context_step(
        self, past: Tensor, actions: Tensor, cache: KVCache, context: Tensor, streams: Streams
    ) -> ContextFeatures:
        """As `worldsim.sampling.sampler.context_step`."""
        ...

    def draw(self, past: Tensor, features: ContextFeatures, noise: StepNoise) -> Tensor:
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
    carried: CarriedHeads = field(default_factory=dict)

    @property
    def eager(self) -> Eager:
        """This one."""
        return self

    def context_step(
        self, past: Tensor, actions: Tensor, cache: KVCache, context: Tensor, streams: Streams
    ) -> ContextFeatures:
        """As `worldsim.sampling.sampler.context_step`."""
        return context_step(self.dynamics, self.sampling, past, actions, cache, context, streams)

    def draw(self, past: Tensor, features: ContextFeatures, noise: StepNoise) -> Tensor:
        """As `worldsim.sampling.sampler.draw`."""
        return draw(self.dynamics, self.sampling, past, features, noise)

    def with_sampling(self, sampling: SamplingConfig) -> Eager:
        """One that draws otherwise."""
        return replace(self, sampling=sampling)

    def with_heads(self, carried: CarriedHeads) -> Eager:
        """The same, with these heads after the frame."""
        return replace(self, carried=carried)
