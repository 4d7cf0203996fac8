"""Several steps under one action, most of them drawn in one pass: `Burst`, an optional head of a world.

Next-Frame Diffusion (Cheng et al., 2025) draws the frames of a repeated action in parallel. Here the dynamics draws the
first of them, and a small network of its own all others at once: it has learned where the dynamics' steps lead, one
after the other, with the same noise. It shares the denoiser's blocks with them and reads the history only once.
"""

from __future__ import annotations

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
    """What the steps after the first of `steps` draw from noise, given the history's output at the first.

    Each later step is drawn as the dynamics draws one, on a canvas of its own and from its own noise. It sees in
    place of the steps between what these are drawn from.
    """

    def __init__(self, config: DynamicsConfig, steps: int) -> None:
        super().__init__()
        check_burst(config, steps)
        self.steps = steps
        cells = config.patch[0] * config.patch[1]
        between = (steps - 2) * config.drawn_channels  # of the noise of all steps before the last
        self.level = nn.Parameter(torch.zeros(steps - 1, config.cond_dim))  # in place of noise level and leap
        self.seen_embed = nn.Linear(config.local * cells, config.dim, bias=False)
        self.noisy_embed = nn.Linear(config.drawn_channels * cells, config.dim)
        self.earlier_embed = nn.Linear(between * cells, config.dim, bias=False)
        self.mods = Modulation(config.cond_dim, config.dim, DenoiserBlock.PARTS, config.denoiser_blocks)
        self.painter = Painter(config)
        self.enter_earlier = nn.Conv2d(between, config.local, 3, padding=1, bias=False)

    def forward(self, dynamics: Dynamics, tokens: Tensor, cond: Tensor, past: Tensor, noisy: Tensor) -> Tensor:
        """Noise (F, (steps - 1) * drawn, h, w) -> latents of the same shape.

        `tokens` (F, N, D) and `cond` (F, cond_dim) are the history's at the first step, `past` (F, 2, C, h, w) has the
        frame that it drew and the one before. The drawn latents of one step come after those of the other, each the new
        frame first, then the pictures between.
        """
        later = self.steps - 1  # the frames below are F * later: a world's steps in a row
        local, previous = dynamics.local(past.flatten(1, 2)), past[:, 0]
        own, earlier = noisy.unflatten(1, (later, -1)).flatten(0, 1), self._earlier(noisy)
        seen = tokens + self.seen_embed(dynamics.to_tokens(local))
        x = seen.repeat_interleave(later, dim=0) + self.noisy_embed(dynamics.to_tokens(own))
        x = x + self.earlier_embed(dynamics.to_tokens(earlier))
        for block, mods in zip(dynamics.denoiser, self.mods((cond[:, None] + self.level).flatten(0, 1)), strict=True):
            x = block(x, mods)
        told = dynamics.to_grid(self.painter.tell(F.layer_norm(x, x.shape[-1:])))
        canvas = self.painter.enter_past(torch.cat([local, previous], dim=1)).repeat_interleave(later, dim=0)
        change = self.painter(told, canvas + self.enter_earlier(earlier), own)
        change = change.unflatten(0, (-1, later)).flatten(1, 2)  # (F, later * drawn, h, w)
        return previous.repeat(1, change.shape[1] // previous.shape[1], 1, 1) + change

    def _earlier(self, noisy: Tensor) -> Tensor:
        """For every later step the noise of those before it, and zeros for the others: (F * later, K, h, w)."""
        later = self.steps - 1
        before = torch.ones(later, later - 1, device=noisy.device, dtype=noisy.dtype).tril(-1)
        of_all = noisy.unflatten(1, (later, -1))[:, None, :-1]  # (F, 1, later - 1, drawn, h, w)
        return (of_all * before[:, :, None, None, None]).flatten(2, 3).flatten(0, 1)

    @torch.no_grad()
    def begin_as(self, dynamics: Dynamics) -> None:
        """Weights with which every step of the burst draws what the dynamics would draw next, in one leap, with the
        history as it was one step before."""
        start = fourier_features(torch.tensor([0.0, 1.0]), LEVEL_FEATURES).flatten()  # level 0, a leap of all the way
        self.level.copy_(dynamics.tau(start.to(dynamics.tau.weight.dtype)))
        self.mods.load_state_dict(dynamics.denoiser_mods.state_dict())
        self.noisy_embed.load_state_dict(dynamics.noisy_embed.state_dict())
        self.painter.load_state_dict(dynamics.painter.state_dict())
        for layer in (self.seen_embed, self.earlier_embed, self.enter_earlier):
            layer.weight.zero_()
