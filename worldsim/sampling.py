"""Sampling one step: history, events, denoising. A function of (weights, past, action, noise); no randomness inside."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worldsim import noise
from worldsim.errors import InvalidInput
from worldsim.models.cache import KVCache
from worldsim.models.dynamics import Dynamics, HistoryOut
from worldsim.models.events import sample_events
from worldsim.models.tokenizer import unit_rms


@dataclass(frozen=True)
class SamplingConfig:
    """How a step is drawn."""

    steps: int = 1  # denoising steps, 1 to 4
    temperature: float = 1.0  # of the events: below 1 rare events get rarer, above 1 more frequent
    context_noise: float = 0.05  # level of noise put on the last frames, as in training; holds drift back

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= 4:
            raise InvalidInput(f"sampling steps is {self.steps}; give 1 to 4 denoising steps")
        if not self.temperature >= 0:
            raise InvalidInput(f"sampling temperature is {self.temperature}; give 0 or more, 1 for what was learned")
        if not 0 <= self.context_noise <= 1:
            raise InvalidInput(f"sampling context_noise is {self.context_noise}; give a level from 0 to 1")


@dataclass(frozen=True)
class StepNoise:
    """All the noise of one step; F is the batch."""

    context: Tensor  # (F, C, h, w) standard normal
    events: Tensor  # (F, N, groups) uniform in [0, 1)
    picture: Tensor  # (F, drawn, h, w) standard normal


@dataclass(frozen=True)
class Drawn:
    """What one step drew."""

    latents: Tensor  # (F, drawn, h, w): the new frame's latents first, then those of the pictures between
    reward: Tensor  # (F,), in units of the reward scale
    end_logit: Tensor  # (F,)


def empty_cache(dynamics: Dynamics, batch: int) -> KVCache:
    """A cache for a batch of worlds, in the weights' number format and on their device."""
    c, weight = dynamics.config, dynamics.place
    return KVCache.empty(
        batch, c.history_blocks, c.tokens, c.heads, c.window, c.dim // c.heads, dtype=weight.dtype, device=weight.device
    )


def step_noise(dynamics: Dynamics, seeds: Tensor, episodes: Tensor, steps: Tensor) -> StepNoise:
    """The noise of one step for every world of a batch: a function of (seed, episode, step)."""
    c, weight = dynamics.config, dynamics.place
    grid = (c.height, c.width)
    keys = (seeds.tolist(), episodes.tolist(), steps.tolist())

    def to_weights(array: object) -> Tensor:
        return torch.as_tensor(array).to(weight.device, weight.dtype)

    return StepNoise(
        to_weights(noise.normal(*keys, noise.STREAM_CONTEXT, (c.channels, *grid))),
        torch.as_tensor(noise.uniform(*keys, noise.STREAM_EVENT, (c.tokens, c.event_groups))).to(weight.device),
        to_weights(noise.normal(*keys, noise.STREAM_PICTURE, (c.drawn_channels, *grid))),
    )


def look_back(
    dynamics: Dynamics, config: SamplingConfig, past: Tensor, actions: Tensor, cache: KVCache, drawn_from: StepNoise
) -> HistoryOut:
    """The history's part of a step: reads the cache and writes this step into it.

    The noise that is put on the last frames stays in the cache: what is drawn does not carry it on.
    """
    noisy = past + config.context_noise * drawn_from.context.unsqueeze(1)
    level = torch.full((len(past),), config.context_noise, device=past.device)
    return dynamics.advance(noisy[:, 0], noisy[:, 1], actions, level, cache)


def sample_step(
    dynamics: Dynamics, config: SamplingConfig, past: Tensor, actions: Tensor, cache: KVCache, drawn_from: StepNoise
) -> Drawn:
    """Advance by one action; `past` (F, 2, C, h, w) holds the last frame's latents and those of the frame before."""
    seen = look_back(dynamics, config, past, actions, cache, drawn_from)
    events = sample_events(seen.event_logits, drawn_from.events, config.temperature).to(past.dtype)
    z = drawn_from.picture
    for k in range(config.steps):
        tau = torch.full((len(past),), k / config.steps, device=past.device)
        clean = dynamics.denoise(seen, past[:, 0], events, z, tau)
        # Euler step of the flow from noise to picture; the last one lands on the prediction itself.
        z = clean if k + 1 == config.steps else z + (clean - z) / (config.steps - k)
    return Drawn(onto_latents(z, dynamics.config.channels), seen.reward, seen.end_logit)


def onto_latents(drawn: Tensor, channels: int) -> Tensor:
    """Bring drawn latents (F, drawn, h, w) back to the RMS that latents of pictures have.

    A prediction is a mean, which is shorter than what it is the mean of; fed back step after step, small things
    would fade and stray latents would grow.
    """
    return unit_rms(drawn.unflatten(1, (-1, channels))).flatten(1, 2)
