"""Rolling the dynamics out over recorded actions, from latents to latents: for the sample pictures of training."""

from __future__ import annotations

import torch
from torch import Tensor

from worldsim.models.dynamics import Dynamics
from worldsim.models.registry import Streams
from worldsim.sampling import SamplingConfig, empty_cache, sample_step, step_noise


@torch.inference_mode()
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
    weight = dynamics.place
    latents, actions = latents.to(weight.device, weight.dtype), actions.to(weight.device)
    cache, out = empty_cache(dynamics, ages), latents.clone()
    seeds, zeros = torch.arange(batch) + seed, torch.zeros(batch, dtype=torch.int64)
    recorded = {name: values.to(weight.device) for name, values in (streams or {}).items()}
    known = {name: values[:, 0] for name, values in recorded.items()}
    for t in range(1, steps):
        past = torch.stack([out[:, t - 1, 0], out[:, max(t - 2, 0), 0]], dim=1)
        noise = step_noise(dynamics, seeds, zeros, zeros + t)
        drawn = sample_step(dynamics, config, past, actions[:, t], cache, noise, known)
        known = {name: values[:, t] for name, values in recorded.items()}
        if t >= context:
            out[:, t] = drawn.latents.unflatten(1, (latents.shape[2], -1))
            known |= drawn.streams
    return out.float()
