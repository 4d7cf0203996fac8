"""What the dynamics are built of: blocks of the history and of the denoiser, and the convolutions that draw."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.models.layers import MLP, ShapedConv, SpaceAttention, TimeAttention, gated, modulate

if TYPE_CHECKING:
    from worldsim.models.dynamics import DynamicsConfig


class HistoryBlock(nn.Module):
    """Attention over space, attention over time, MLP; each modulated and gated by the condition."""

    PARTS = 9

    def __init__(self, config: DynamicsConfig) -> None:
        super().__init__()
        self.space = SpaceAttention(config.dim, config.heads)
        self.time = TimeAttention(config.dim, config.heads, config.context_length)
        self.mlp = MLP(config.dim, config.mlp_ratio)


class DenoiserBlock(nn.Module):
    """Attention over space and MLP; a drawn frame sees the past only through the history's output."""

    PARTS = 6

    def __init__(self, config: DynamicsConfig) -> None:
        super().__init__()
        self.space = SpaceAttention(config.dim, config.heads)
        self.mlp = MLP(config.dim, config.mlp_ratio)

    def forward(self, x: Tensor, mods: tuple[Tensor, ...]) -> Tensor:
        """(F, N, D) -> (F, N, D)."""
        shift1, scale1, gate1, shift2, scale2, gate2 = mods
        x = gated(x, gate1, self.space(modulate(x, shift1, scale1)))
        return gated(x, gate2, self.mlp(modulate(x, shift2, scale2)))


class LatentDecoder(nn.Module):
    """From tokens to latents: convolutions over the previous frames, shaped by what the tokens say of every place."""

    def __init__(self, config: DynamicsConfig) -> None:
        super().__init__()
        c = config
        self.film_input = nn.Linear(c.dim, c.local * c.patch[0] * c.patch[1])
        # One layer in two parts: that of the past is the same for all denoising steps.
        self.enter_past = nn.Conv2d(c.local + c.channels, c.local, 3, padding=1)
        self.enter = nn.Conv2d(c.local + c.drawn_channels, c.local, 3, padding=1, bias=False)
        self.blocks = nn.ModuleList(ShapedConv(c.local) for _ in range(c.latent_decoder_blocks))
        self.leave = nn.Conv2d(c.local, c.drawn_channels, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)  # type: ignore[arg-type]

    def forward(self, film_input: Tensor, past: Tensor, noisy: Tensor) -> Tensor:
        """FiLM input on the grid and `enter_past`'s features, (F, local, h, w) each, noisy -> (F, drawn, h, w)."""
        x = past + self.enter(torch.cat([film_input, noisy], dim=1))
        for block in self.blocks:
            x = block(x, film_input)
        return self.leave(F.silu(x))
