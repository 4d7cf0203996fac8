"""Rolling the dynamics out over recorded actions, from latents to latents: for the sample frames of training."""

from __future__ import annotations

from torch import Tensor

from worldsim.models.dynamics import Dynamics
from worldsim.models.registry import Streams
from worldsim.rollout import advance, finish, start
from worldsim.sampling.sampler import Eager, SamplingConfig


def dream(
    dynamics: Dynamics, config: SamplingConfig, latents: Tensor, actions: Tensor, ages: Tensor,
    streams: Streams | None = None, *, context: int, seed: int,
) -> Tensor:  # fmt: skip
    """Dream on from the first `context` rows with the recorded actions.

    `latents` (B, T, 1 + between, C, h, w), `actions` (B, T, ...) as rows of a store (the action leads to its row),
    `ages` (B,) of the first rows, in steps, `streams` (B, T, ...) the recorded ones that the model reads;
    returns latents of the same shape, the context unchanged.
    """
    batch, steps = latents.shape[:2]
    weight, engine = dynamics.position, Eager(dynamics, config)
    latents, actions = latents.to(weight.device, weight.dtype), actions.to(weight.device)
    out, seeds = latents.clone(), range(seed, seed + batch)
    read, between = latents[:, :context, 0], actions[:, 1:context]
    known = {name: values[:, :context].to(weight.device) for name, values in (streams or {}).items()}
    state = start(engine, read, between, ages=ages, seeds=seeds, episodes=[0] * batch, streams=known)
    for t in range(context, steps):
        state, step = finish(advance(engine, state, actions[:, t]))
        out[:, t] = step.latents
    return out.float()
