"""Learn the numbers before the frames: the networks of `motion` and `success` heads, from recorded streams alone.

A step of this costs a hundredth of a step of the whole model, so that numbers are exact when frames begin to be
learned. They learn on their own predictions, over more and more steps, so that what they foresee in a dream does not
drift (as in Robotic World Model; Li et al., 2025).
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.data.latents import LatentEpisodes
from worldsim.models.dynamics import Dynamics
from worldsim.models.registry import Streams
from worldsim.models.state_heads import FlagHead, MotionHead

SHARE = 0.2  # of a training's hours that are spent here
BATCH = 256
LONGEST = 10  # steps on own predictions, at the end
LEARNING_RATE = 3e-3
NOISE = 0.02  # on the vectors that a prediction begins with, in their deviations


def learn_numbers(
    dynamics: Dynamics, stores: Sequence[LatentEpisodes], *, seconds: float, steps: int | None = None, seed: int = 0,
    longest: int = LONGEST,
) -> dict[str, float]:  # fmt: skip
    """Train these heads for `seconds`, or for so many `steps`, at the end over `longest` steps on own predictions.

    Gives the last losses, by the heads' names. Does nothing for a model without such heads, or where no episode is
    longer than a step.
    """
    motions, flags = _heads(dynamics)
    data = _Windows(stores, [*dynamics.config.streams])
    if not (motions or flags) or not data.any:
        return {}
    parameters = [p for head in motions.values() for p in head.own_parameters()]
    parameters += [p for head in flags.values() for p in head.own_parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=1e-3)
    rng, begin, step, progress = np.random.default_rng([seed, 11]), time.monotonic(), 0, 0.0
    shown: dict[str, float] = {}
    while progress < 1:
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, (progress + 0.01) / 0.06) * 0.5 * (1 + math.cos(math.pi * progress))
        streams, actions = data.draw(rng, 1 + int(progress * (longest - 1) + 0.5))
        losses = _losses(motions, flags, streams, actions, rng)
        optimizer.zero_grad()
        torch.stack([*losses.values()]).sum().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        progress = step / steps if steps is not None else (time.monotonic() - begin) / seconds
        shown = {name: float(loss.detach()) for name, loss in losses.items()}
    return shown


def _heads(dynamics: Dynamics) -> tuple[dict[str, MotionHead], dict[str, FlagHead]]:
    named = dynamics.heads.named()
    return (
        {name: head for name, head in named if isinstance(head, MotionHead)},
        {name: head for name, head in named if isinstance(head, FlagHead)},
    )


class _Windows:
    """Successive rows of episodes."""

    def __init__(self, stores: Sequence[LatentEpisodes], names: Sequence[str]) -> None:
        self.streams = {name: np.concatenate([store.streams[name] for store in stores]) for name in names}
        self.actions = np.concatenate([store.actions for store in stores])
        lengths = np.concatenate([np.diff(store.ends, prepend=0) for store in stores])
        self.left = np.concatenate([np.arange(length)[::-1] for length in lengths])  # rows to come in the episode
        self.any = bool((self.left > 0).any())

    def draw(self, rng: np.random.Generator, steps: int) -> tuple[Streams, Tensor]:
        """Streams (B, S + 1, ...) and the actions (B, S, A) between them; S is `steps`, or what the longest has."""
        steps = min(steps, int(self.left.max()))
        first = rng.choice(np.flatnonzero(self.left >= steps), BATCH)
        rows = first[:, None] + np.arange(steps + 1)
        streams = {name: torch.from_numpy(values[rows]) for name, values in self.streams.items()}
        return streams, torch.from_numpy(self.actions[rows[:, 1:]])


def _losses(
    motions: dict[str, MotionHead], flags: dict[str, FlagHead], streams: Streams, actions: Tensor,
    rng: np.random.Generator,
) -> dict[str, Tensor]:  # fmt: skip
    """The mean loss of each head along the window, on what the heads themselves foresee."""
    state = {name: values[:, 0] for name, values in streams.items()}
    for head in motions.values():
        noise = torch.from_numpy(rng.standard_normal(state[head.stream].shape, np.float32))
        state[head.stream] = head.normalise.undo(head.normalise(state[head.stream].float()) + NOISE * noise)
    count = actions.shape[1]
    losses = {name: torch.zeros(()) for name in (*motions, *flags)}
    for t in range(count):
        said = {name: head.foresee(state, actions[:, t]) for name, head in motions.items()}
        came = {name: values[:, t + 1] for name, values in streams.items()}
        for name, head in motions.items():
            wanted = head.normalise(came[head.stream].flatten(1).float())
            losses[name] = losses[name] + (said[name] - wanted).square().mean() / count
        state = dict(came)
        for name, head in motions.items():
            state |= head.sample(said[name])
        for name, flag in flags.items():
            wanted = came[flag.stream].float()
            for seen in (came, {key: values.detach() for key, values in state.items()}):
                error = F.binary_cross_entropy_with_logits(flag.judge(seen), wanted)
                losses[name] = losses[name] + error / (2 * count)
    return losses
