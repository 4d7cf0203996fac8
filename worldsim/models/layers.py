"""The layers of the dynamics. Shape suffixes: B batch, T steps, N tokens of a frame, D width, H heads, C head width."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

if TYPE_CHECKING:
    from worldsim.models.dynamics import DynamicsConfig


def patches(grid: Tensor, patch: tuple[int, int]) -> Tensor:
    """A grid (F, c, h, w) as tokens, each of so many rows and columns: (F, N, c * cells)."""
    p, q = patch
    return rearrange(grid, "f c (h p) (w q) -> f (h w) (c p q)", p=p, q=q)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Normalise without learned gain, then shift and scale by the condition (adaLN; Peebles and Xie, 2023)."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:]), 1 + scale)


def gated(x: Tensor, gate: Tensor, change: Tensor) -> Tensor:
    """Add a block's change as far as the condition lets it."""
    return torch.addcmul(x, gate, change)


class Modulation(nn.Module):
    """The shifts, scales and gates of a stack: one small shared network plus a table (PixArt-alpha's adaLN-single)."""

    def __init__(self, cond_dim: int, dim: int, parts: int, blocks: int) -> None:
        super().__init__()
        self.parts = parts
        self.shared = nn.Linear(cond_dim, parts * dim)
        self.table = nn.Parameter(torch.zeros(blocks, parts * dim))
        nn.init.zeros_(self.shared.weight)
        nn.init.zeros_(self.shared.bias)  # gates start at zero: every block begins as the identity

    def forward(self, cond: Tensor) -> list[tuple[Tensor, ...]]:
        """(..., cond_dim) -> for each block `parts` tensors (..., 1, D), broadcast over a frame's tokens."""
        shared = self.shared(F.silu(cond)).unsqueeze(-2)
        return [(shared + row).chunk(self.parts, dim=-1) for row in self.table]


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Softmax attention, (..., Tq, C), (..., Tk, C), (..., Tk, C), bias (..., Tq, Tk) -> (..., Tq, C).

    Without a scale of its own: `QKNorm` gives queries and keys their size.
    """
    if q.is_cuda:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)
    # For a few dozen keys PyTorch's fused CPU kernel is several times slower than two batched products,
    # in its bf16 backward pass above all.
    logits = q @ k.transpose(-1, -2)
    if bias is not None:
        logits = logits + bias
    return torch.softmax(logits, dim=-1).to(v.dtype) @ v


class QKNorm(nn.Module):
    """Keys of length 1, queries of a learned size a head (Henry et al., 2020): keeps bf16 attention logits bounded."""

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.full((head_dim,), 1.0))

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """(..., C) each -> the same shapes."""
        size = self.gain.to(q.dtype) * q.shape[-1] ** 0.5
        return unit(q) * size, unit(k)


def unit(x: Tensor) -> Tensor:
    """Vectors (..., C) at length 1; zero stays zero."""
    return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(1e-6)


class SpaceAttention(nn.Module):
    """Every token of a frame attends to every token of the same frame."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.norm = QKNorm(dim // heads)
        self.out = nn.Linear(dim, dim)

    def forward(self, x_FND: Tensor) -> Tensor:
        """(F, N, D) -> (F, N, D) for any number of frames F."""
        q, k, v = rearrange(self.qkv(x_FND), "f n (three h c) -> three f h n c", three=3, h=self.heads)
        q, k = self.norm(q, k)
        return self.out(rearrange(attend(q, k, v), "f h n c -> f n (h c)"))


class TimeAttention(nn.Module):
    """A token attends to the tokens at its own place in this step and the `context_length` steps before it.

    Position enters as a learned bias a head and a distance (Raffel et al., 2020), not as a rotation: a cached key
    needs no change as time goes on, and a full ring buffer reads exactly as training did.
    """

    def __init__(self, dim: int, heads: int, context_length: int) -> None:
        super().__init__()
        self.heads = heads
        self.context_length = context_length
        self.qkv = nn.Linear(dim, 3 * dim)
        self.norm = QKNorm(dim // heads)
        self.out = nn.Linear(dim, dim)
        # Start with a mild preference for the recent past.
        slopes = np.linspace(0.0, 0.5, heads)[:, None] * np.sqrt(np.arange(context_length + 1))
        self.bias = nn.Parameter(torch.tensor((-slopes).tolist()))  # (H, context_length + 1), by distance in steps

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(..., D) -> queries, keys, values (..., H, C)."""
        q, k, v = rearrange(self.qkv(x), "... (three h c) -> three ... h c", three=3, h=self.heads)
        q, k = self.norm(q, k)
        return q, k, v

    def forward(self, x_BTND: Tensor) -> Tensor:
        """A whole clip at once, causal: (B, T, N, D) -> (B, T, N, D), T <= context_length + 1."""
        batch, steps = x_BTND.shape[:2]
        q, k, v = (rearrange(a, "b t n h c -> (b n) h t c") for a in self.project(x_BTND))
        time = torch.arange(steps, device=x_BTND.device)
        distance = (time[:, None] - time[None, :]).clamp(0, self.context_length)
        mask = self.bias[:, distance].masked_fill(time[None, :] > time[:, None], -math.inf)  # (H, T, T)
        y = attend(q, k, v, mask.to(q.dtype))
        return self.out(rearrange(y, "(b n) h t c -> b t n (h c)", b=batch))

    def read(self, q_BTNHC: Tensor, keys: Tensor, values: Tensor, bias_BHTS: Tensor) -> Tensor:
        """Some steps against cached keys and values (B, N, H, S, C) -> (B, T, N, D).

        `bias_BHTS` is -inf where a step must not look.
        """
        q = rearrange(q_BTNHC, "b t n h c -> b n h t c")
        y = attend(q, keys, values, bias_BHTS[:, None].to(q.dtype))
        return self.out(rearrange(y, "b n h t c -> b t n (h c)"))


class MLP(nn.Sequential):
    """Two linear layers with a GELU between; its tanh approximation takes four times as long in bf16 on CPUs."""

    def __init__(self, dim: int, ratio: int) -> None:
        super().__init__(nn.Linear(dim, ratio * dim), nn.GELU(), nn.Linear(ratio * dim, dim))


class ShapedConv(nn.Module):
    """A residual block of convolutions that tokens scale and shift at every place (FiLM; Perez et al., 2018).

    To move a texture by some pixels is to multiply what is there with where it goes: a sum alone cannot do that.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.film = nn.Conv2d(width, 2 * width, 1)
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, film_input: Tensor) -> Tensor:
        """Features (F, width, h, w) and what the tokens tell every place, (F, width, h, w) -> features."""
        scale, shift = self.film(film_input).chunk(2, dim=1)
        return x + self.second(F.silu(self.first(F.silu(x)) * (1 + scale) + shift))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions; the second starts at zero, so that a deep stack begins as the identity, without norms."""

    def __init__(self, width: int, inner: int | None = None) -> None:
        super().__init__()
        inner = inner or width  # channels between the convolutions
        self.first = nn.Conv2d(width, inner, 3, padding=1)
        self.second = nn.Conv2d(inner, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, h, w) -> the same."""
        return x + self.second(F.silu(self.first(F.silu(x))))


def fourier_features(x: Tensor, count: int, finest: float = 100.0) -> Tensor:
    """Sines and cosines of a level in [0, 1], from half a turn to `finest` half turns: (...,) -> (..., count)."""
    frequencies = torch.exp(torch.linspace(0.0, math.log(finest), count // 2, device=x.device))
    angles = x.float().unsqueeze(-1) * frequencies * math.pi
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


# -- the history's memory while serving: a ring of keys and values with a sink, preallocated and never moved ----------


@dataclass(frozen=True)
class Slots:
    """Where the step that is being computed goes, and how far away every slot is from it; T is 1."""

    rows: Tensor  # (B, 1) int64, 0..B-1
    slot: Tensor  # (B, T) int64
    distance: Tensor  # (B, T, S) int64, clamped to the context length
    hidden: Tensor  # (B, T, S) bool: empty

    def bias(self, table: Tensor) -> Tensor:
        """Attention bias (B, H, T, S) from a block's table (H, context_length + 1)."""
        bias = table[:, self.distance].transpose(0, 1)
        return bias.masked_fill(self.hidden[:, None], -math.inf)


@dataclass
class KVCache:
    """Keys and values of every history block, (B, N, H, S, C) S = context_length + 1 slots, and each world's clock.

    Slot 0 (the sink) keeps an episode's first step for good; the slots after it are a ring. Every world of a batch has
    its own clock, so that one can restart while the others go on. Distances beyond the context length read as that
    length, just what a training clip's first step looks like from its last, so nothing happens when the ring is full.
    """

    keys: list[Tensor]
    values: list[Tensor]
    time: Tensor  # (B,) int64: steps written so far
    written: Tensor  # (B, S) int64: the step that each slot holds; -1 when empty
    first: Tensor  # (B,) int64: steps of the episode before the first one that was written

    @classmethod
    def empty(
        cls, first: Tensor, blocks: int, tokens: int, heads: int, context_length: int, head_dim: int,
        *, dtype: torch.dtype, device: torch.device,
    ) -> KVCache:  # fmt: skip
        """A cache in which nothing has been written; `first` (B,) int64 as above."""
        batch = len(first)
        shape = (batch, tokens, heads, context_length + 1, head_dim)
        make = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(2 * blocks)]
        time = torch.zeros(batch, dtype=torch.int64, device=device)
        written = torch.full((batch, context_length + 1), -1, dtype=torch.int64, device=device)
        return cls(make[:blocks], make[blocks:], time, written, first.to(device, torch.int64))

    @property
    def ages(self) -> Tensor:
        """Steps since the beginning of each world's episode, (B,) int64."""
        return self.first + self.time

    def claim(self) -> Slots:
        """Take the next slot of every world and advance the clocks."""
        context_length = self.written.shape[1] - 1
        rows = torch.arange(self.time.shape[0], device=self.time.device)[:, None]
        times = self.time[:, None]  # (B, T)
        slot = torch.where(times == 0, 0, 1 + (times - 1) % context_length)
        self.written[rows, slot] = times
        distance = times[:, :, None] - self.written[:, None]
        slots = Slots(rows, slot, distance.clamp(0, context_length), (self.written < 0)[:, None])
        self.time = self.time + 1
        return slots

    def write(self, block: int, slots: Slots, k_BTNHC: Tensor, v_BTNHC: Tensor) -> tuple[Tensor, Tensor]:
        """Store this step's keys and values; returns all of the block's, (B, N, H, S, C)."""
        self.keys[block][slots.rows, :, :, slots.slot] = k_BTNHC
        self.values[block][slots.rows, :, :, slots.slot] = v_BTNHC
        return self.keys[block], self.values[block]


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
