"""What a world with action tokens does besides simulating: it tells actions of frames, and draws both together.

As in Unified World Models (Zhu et al., 2025) these are uses of one network that differ in the noise levels of frame and
actions. All are functions of (weights, what the history has read, noise).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from einops import rearrange
from torch import Tensor

from worldsim.models.acting import SOON, UNKNOWN, Acting, Chunk
from worldsim.models.dynamics import ContextFeatures, Dynamics
from worldsim.models.layers import KVCache
from worldsim.models.registry import Streams
from worldsim.sampling.sampler import SamplingConfig, context_step, levels, solve_ode

ACTING_STEPS = 4  # in which frame and actions are drawn together


@dataclass(frozen=True)
class Imagined:
    """A future that a world acts for."""

    frame: Tensor  # (F, drawn, h, w) latents, as `worldsim.sampling.sampler.draw` gives them
    actions: Tensor  # (F, K, A), as the simulator takes them; the first one leads to the frame


def acting_step(
    dynamics: Dynamics, config: SamplingConfig, past: Tensor, cache: KVCache, context: Tensor, streams: Streams
) -> ContextFeatures:
    """The history's part of a step whose action is not known; otherwise as `worldsim.sampling.sampler.context_step`.

    It leaves the same cache as a step with any action: the history does not see actions.
    """
    rows = len(past)
    nothing = torch.zeros(rows, dtype=torch.bool, device=past.device)
    usual = _acting(dynamics).usual(rows)
    return context_step(dynamics, config, past, usual, cache, context, streams, nothing)


def infer_actions(
    dynamics: Dynamics, features: ContextFeatures, previous: Tensor, frame: Tensor, noise: Tensor, *, steps: int = 1
) -> Tensor:
    """The actions (F, K, A) that led from the last frame `previous` to `frame`, (F, C, h, w) each, and those after.

    `features` are of steps whose action is not known, `noise` (F, K, A) is standard normal. A single step gives the
    mean of what can have been done, whatever the noise; more of them one of these.
    """
    acting = _acting(dynamics)
    canvas, rows = dynamics.prepare(features, previous), len(frame)
    between = frame.new_zeros(rows, dynamics.config.drawn_channels - frame.shape[1], *frame.shape[2:])
    known = torch.cat([frame, between], dim=1)  # what lies between the frames is not known, as in training
    clean, outcome = frame.new_ones(rows), torch.full((rows,), UNKNOWN, device=frame.device)

    def predict(z: Tensor, t: float) -> Tensor:
        chunk = _chunk(z, t, outcome)
        return dynamics.denoise_both(replace(canvas, chunk=chunk), known, clean, torch.zeros_like(clean))[1]

    return acting.normalise.undo(solve_ode(predict, noise.float(), [*levels(steps), 1.0], small=False))


def imagine(
    dynamics: Dynamics, config: SamplingConfig, features: ContextFeatures, previous: Tensor, frame_noise: Tensor,
    action_noise: Tensor, *, outcome: int = SOON, steps: int = ACTING_STEPS,
) -> Imagined:  # fmt: skip
    """A frame and the actions that begin with the one that leads there, drawn together in so many steps.

    `features` are of steps whose action is not known, `previous` (F, C, h, w) is the last frame; the noise, standard
    normal, is (F, drawn, h, w) and (F, K, A). `outcome` is what the actions are to lead to. Of `config` the temperature
    counts.
    """
    acting, canvas, rows = _acting(dynamics), dynamics.prepare(features, previous), len(previous)
    wanted, numbers = torch.full((rows,), outcome, device=previous.device), frame_noise[0].numel()

    def apart(z: Tensor) -> tuple[Tensor, Tensor]:
        frame = z[:, :numbers].unflatten(1, frame_noise.shape[1:])
        return frame, rearrange(z[:, numbers:], "f (k a) -> f k a", k=acting.chunk)

    def together(frame: Tensor, actions: Tensor) -> Tensor:
        return torch.cat([frame.float().flatten(1), actions.float().flatten(1)], dim=1)

    def predict(z: Tensor, t: float) -> Tensor:
        frame, actions = apart(z)
        at = torch.full((rows,), t, device=z.device)
        drawn = replace(canvas, chunk=_chunk(actions, t, wanted))
        clean, told = dynamics.denoise_both(drawn, frame.to(previous.dtype), at, torch.zeros_like(at))
        return together(dynamics.limited(clean), told)

    begin = together(config.temperature * frame_noise, action_noise)
    frame, actions = apart(solve_ode(predict, begin, [*levels(steps), 1.0], small=False))
    return Imagined(frame, acting.normalise.undo(actions))


def _chunk(actions: Tensor, t: float, outcome: Tensor) -> Chunk:
    """Actions (F, K, A) that are all of one level."""
    return Chunk(actions, torch.full(actions.shape[:2], t, device=actions.device), outcome)


def _acting(dynamics: Dynamics) -> Acting:
    assert dynamics.acting is not None, "a world without action tokens cannot act"
    return dynamics.acting
