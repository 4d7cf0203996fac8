"""Several steps under one action, most of them drawn in one pass: `Burst`, an optional head of a world.

Next-Frame Diffusion (Cheng et al., 2025) draws the frames of a repeated action in parallel. Here the dynamics draws the
first of them, and a small network of its own all others at once: it has learned where the dynamics' steps lead, one
after the other, with the same noise. It shares the denoiser's blocks with them and reads the history only once.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.errors import InvalidInput
from worldsim.models.dynamics import (
    LEVEL_FEATURES,
    DenoiserBlock,
    Dynamics,
    DynamicsConfig,
    Painter,
)
from worldsim.models.layers import Modulation, fourier_features


def check_burst(config: DynamicsConfig, steps: int) -> None:
    """Raise InvalidInput for a number of steps that cannot be drawn as a burst."""
    if not 3 <= steps <= config.window + 1:
        raise InvalidInput(
            f"a burst of {steps} steps cannot be: fewer than 3 draw nothing in parallel, and the history reads "
            f"no more than {config.window + 1}; give a number between"
        )


class Burst(nn.Module):
    """What the steps after the first of `steps` draw from noise, given the history's output at the first."""

    def __init__(self, config: DynamicsConfig, steps: int) -> None:
        super().__init__()
        check_burst(config, steps)
        self.steps = steps
        wide = dataclasses.replace(config, between=(steps - 1) * (1 + config.between) - 1)
        cells = config.patch[0] * config.patch[1]
        self.level = nn.Parameter(torch.zeros(config.cond_dim))  # in place of noise level and leap, always the same
        self.seen_embed = nn.Linear(config.local * cells, config.dim, bias=False)
        self.noisy_embed = nn.Linear(wide.drawn_channels * cells, config.dim)
        self.mods = Modulation(config.cond_dim, config.dim, DenoiserBlock.PARTS, config.denoiser_blocks)
        self.painter = Painter(wide)

    def forward(self, dynamics: Dynamics, tokens: Tensor, cond: Tensor, past: Tensor, noisy: Tensor) -> Tensor:
        """Noise (F, (steps - 1) * drawn, h, w) -> latents of the same shape.

        `tokens` (F, N, D) and `cond` (F, cond_dim) are the history's at the first step, `past` (F, 2, C, h, w) has the
        frame that it drew and the one before. The drawn latents of one step come after those of the other, each the new
        frame first, then the pictures between.
        """
        local = dynamics.local(past.flatten(1, 2))
        x = tokens + self.seen_embed(dynamics.to_tokens(local)) + self.noisy_embed(dynamics.to_tokens(noisy))
        for block, mods in zip(dynamics.denoiser, self.mods(cond + self.level), strict=True):
            x = block(x, mods)
        told = dynamics.to_grid(self.painter.tell(F.layer_norm(x, x.shape[-1:])))
        previous = past[:, 0]
        change = self.painter(told, self.painter.enter_past(torch.cat([local, previous], dim=1)), noisy)
        return previous.repeat(1, change.shape[1] // previous.shape[1], 1, 1) + change

    @torch.no_grad()
    def begin_as(self, dynamics: Dynamics) -> None:
        """Weights with which every step of the burst draws what the dynamics would draw next, in one leap, with the
        history as it was one step before."""
        start = fourier_features(torch.tensor([0.0, 1.0]), LEVEL_FEATURES).flatten()  # level 0, a leap of all the way
        self.level.copy_(dynamics.tau(start.to(dynamics.tau.weight.dtype)))
        self.mods.load_state_dict(dynamics.denoiser_mods.state_dict())
        self.seen_embed.weight.zero_()
        self.noisy_embed.weight.zero_()
        width = dynamics.noisy_embed.in_features
        self.noisy_embed.weight[:, :width] = dynamics.noisy_embed.weight
        self.noisy_embed.bias.copy_(dynamics.noisy_embed.bias)
        ours, theirs = self.painter, dynamics.painter
        for name in ("tell", "enter_past", "blocks"):
            getattr(ours, name).load_state_dict(getattr(theirs, name).state_dict())
        ours.enter.weight.zero_()
        ours.enter.weight[:, : theirs.enter.in_channels] = theirs.enter.weight
        ours.leave.weight.copy_(theirs.leave.weight.repeat(self.steps - 1, 1, 1, 1))
        assert ours.leave.bias is not None and theirs.leave.bias is not None
        ours.leave.bias.copy_(theirs.leave.bias.repeat(self.steps - 1))
