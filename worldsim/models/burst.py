"""Several steps under one action, drawn in one pass: `Burst`, an optional head of a world.

Next-Frame Diffusion (Cheng et al., 2025) draws the frames of a repeated action in parallel. Here a small network of its
own has learned from the dynamics where its steps lead, one after the other, with the same noise. It shares the history
and the denoiser's blocks with them.
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
    HistoryOut,
    Painter,
)
from worldsim.models.layers import Modulation, fourier_features


class Burst(nn.Module):
    """What the next `steps` steps draw from noise, given the history's output at the first of them."""

    def __init__(self, config: DynamicsConfig, steps: int) -> None:
        super().__init__()
        if steps < 2:
            raise InvalidInput(f"a burst of {steps} steps draws nothing in parallel; give 2 or more")
        self.steps = steps
        wide = dataclasses.replace(config, between=steps * (1 + config.between) - 1)
        cells = config.patch[0] * config.patch[1]
        self.level = nn.Parameter(torch.zeros(config.cond_dim))  # in place of noise level and leap, always the same
        self.noisy_embed = nn.Linear(wide.drawn_channels * cells, config.dim)
        self.mods = Modulation(config.cond_dim, config.dim, DenoiserBlock.PARTS, config.denoiser_blocks)
        self.painter = Painter(wide)

    def forward(self, dynamics: Dynamics, seen: HistoryOut, previous: Tensor, noisy: Tensor) -> Tensor:
        """Noise (F, steps * drawn, h, w), the last frame's latents (F, C, h, w) -> latents, as `noisy`.

        The drawn latents of one step after those of the other, each the new frame first, then the pictures between.
        """
        x = seen.tokens + self.noisy_embed(dynamics.to_tokens(noisy))
        for block, mods in zip(dynamics.denoiser, self.mods(seen.cond + self.level), strict=True):
            x = block(x, mods)
        told = dynamics.to_grid(self.painter.tell(F.layer_norm(x, x.shape[-1:])))
        past = self.painter.enter_past(torch.cat([seen.local, previous], dim=1))
        change = self.painter(told, past, noisy)
        return previous.repeat(1, change.shape[1] // previous.shape[1], 1, 1) + change

    @torch.no_grad()
    def begin_as(self, dynamics: Dynamics) -> None:
        """Weights with which every step of the burst draws what the dynamics draws as the first, in one leap."""
        start = fourier_features(torch.tensor([0.0, 1.0]), LEVEL_FEATURES).flatten()  # level 0, a leap of all the way
        self.level.copy_(dynamics.tau(start.to(dynamics.tau.weight.dtype)))
        self.mods.load_state_dict(dynamics.denoiser_mods.state_dict())
        self.noisy_embed.weight.zero_()
        width = dynamics.noisy_embed.in_features
        self.noisy_embed.weight[:, :width] = dynamics.noisy_embed.weight
        self.noisy_embed.bias.copy_(dynamics.noisy_embed.bias)
        ours, theirs = self.painter, dynamics.painter
        for name in ("tell", "enter_past"):
            getattr(ours, name).load_state_dict(getattr(theirs, name).state_dict())
        ours.enter.weight.zero_()
        ours.enter.weight[:, : theirs.enter.in_channels] = theirs.enter.weight
        ours.blocks.load_state_dict(theirs.blocks.state_dict())
        ours.leave.weight.copy_(theirs.leave.weight.repeat(self.steps, 1, 1, 1))
        assert ours.leave.bias is not None and theirs.leave.bias is not None
        ours.leave.bias.copy_(theirs.leave.bias.repeat(self.steps))
