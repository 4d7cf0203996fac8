"""The dynamics: what the next frame's latents, the reward and the ending will be, given the past and an action.

One step, in order:

    history   a block-causal transformer reads the last frames and the action; its keys and values are cached
    denoiser  draws the next latents from noise, given the history's output, in a few steps
    heads     reward, ending and what else the config names, from the history's output, the new frame, or both

What cannot be foreseen (something comes into sight, a texture shimmers) is decided by the noise. The best guess of a
single denoising step averages it away, many small ones draw one of the things that can happen, and shortcut
steps are trained to end where those do.

The history never sees the frame that is being drawn, so one pass a step both reads and writes its cache: there is no
separate clean pass, and more denoising steps cost only the small denoiser.

With `action_tokens` it does not see the action either: the denoiser does, and denoises actions, too (`acting`).

A sensor, a task or a pose is one more condition (`conditions`) or head (`heads`). What is to be remembered for longer
is a memory (`memories`), which is read between history and denoiser.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import add
from typing import Any, cast, get_args

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from worldsim.errors import InvalidInput, check_bounds
from worldsim.models.acting import Acting, Chunk, check_action_tokens
from worldsim.models.conditions import LEVEL_FEATURES, conditions
from worldsim.models.heads import Heads, Reads, heads
from worldsim.models.layers import (
    DenoiserBlock,
    HistoryBlock,
    KVCache,
    LatentDecoder,
    Modulation,
    fourier_features,
    gated,
    modulate,
    patches,
)
from worldsim.models.memories import Memories, memories
from worldsim.models.registry import Scale, StepInputs, Streams
from worldsim.models.state_heads import Foreseen, Redrawn, where_known
from worldsim.spec import StreamSpec

CONDITIONS = ("action", "noise_level", "episode_time")
HEADS = ("reward", "ending", "event")


def usual_conditions(action_tokens: int) -> tuple[str, ...]:
    """The conditions of a model where nothing is said: with action tokens the history does not see the action."""
    return tuple(name for name in CONDITIONS if name != "action" or not action_tokens)


@dataclass(frozen=True)
class DynamicsConfig:
    """Sizes of the dynamics."""

    channels: int = 16  # of a latent
    height: int = 8  # of the latent grid
    width: int = 16
    patch: tuple[int, int] = (8, 1)  # latents (rows, columns) that make one token
    actions: int = 3  # discrete actions; 0 for continuous ones
    action_dim: int = 0  # of a continuous action
    between: int = 1  # frames that a step makes before its last one
    dim: int = 192
    heads: int = 6
    mlp_ratio: int = 4
    history_blocks: int = 4
    denoiser_blocks: int = 2
    context_length: int = 31  # steps that the history remembers besides the first one; training clips have one more
    cond_dim: int = 64
    local: int = 64  # width of the convolutions at the latents' resolution
    latent_decoder_blocks: int = 2  # residual blocks of the convolutions that draw
    max_time: int = 1000  # steps since an episode's beginning after which it gets no later
    period: int = 1  # steps from one stroke of an episode's clock to the next, for the condition "episode_phase"
    action_start: int = 0  # the first discrete action
    action_scale: Scale = field(default_factory=Scale)  # of recorded continuous actions
    conditions: tuple[str, ...] = CONDITIONS  # names in `worldsim.models.conditions`
    output_heads: tuple[str, ...] = HEADS  # names in `worldsim.models.heads`
    head_reads: dict[str, Reads] = field(default_factory=dict)  # by head: what it reads, where it is not its default
    memories: tuple[str, ...] = ()  # names in `worldsim.models.memories`
    foreseen: tuple[str, ...] = ()  # vector streams that heads of the history predict and the frame is drawn to fit
    redraw: bool = False  # frames are drawn anew from what is foreseen, not as changes of the last one
    action_tokens: int = 0  # actions that the denoiser draws together with the frame; 0: it draws frames alone
    options: dict[str, dict[str, Any]] = field(default_factory=dict)  # of conditions, heads and memories, by name
    streams: dict[str, StreamSpec] = field(default_factory=dict)  # that conditions and heads read and predict
    scales: dict[str, Scale] = field(default_factory=dict)  # of these
    latent_low: tuple[float, ...] = ()  # by channel, the smallest latent of the data; none: not known
    latent_high: tuple[float, ...] = ()  # the largest

    def __post_init__(self) -> None:
        sides, widths, blocks = (1, 1024), (1, 8192), (0, 128)
        check_bounds(
            "dynamics", self, channels=(1, 512), height=sides, width=sides, patch=sides,
            actions=(0, 65_536), action_dim=(0, 4096), between=(0, 64), dim=widths, heads=(1, 256), mlp_ratio=(1, 64),
            history_blocks=blocks, denoiser_blocks=blocks, latent_decoder_blocks=blocks, context_length=(1, 65_536),
            cond_dim=widths, local=widths, max_time=(1, 10**9), period=(1, 100_000), action_start=(-(10**9), 10**9),
            action_tokens=(0, 64),
        )  # fmt: skip
        if self.dim % self.heads:
            raise InvalidInput(f"dynamics dim is {self.dim}; give a multiple of heads, which is {self.heads}")
        if bool(self.actions) == bool(self.action_dim):
            raise InvalidInput(
                f"dynamics actions is {self.actions} and action_dim is {self.action_dim}; give one of them, the other 0"
            )
        if self.action_tokens:
            check_action_tokens(self)
        conditions.check(self.conditions)
        heads.check(self.output_heads)
        if not self.output_heads:
            raise InvalidInput("dynamics output_heads are none; name one at least, such as reward")
        for name, reads in self.head_reads.items():
            if name not in self.output_heads or reads not in get_args(Reads):
                raise InvalidInput(
                    f"dynamics head_reads has {name!r}: {reads!r}; name one of {', '.join(self.output_heads)}, and "
                    f"what it reads: {', '.join(get_args(Reads))}"
                )
        if self.redraw and not self.foreseen:
            raise InvalidInput(
                "dynamics redraw is true and foreseen names nothing; name streams that say what is to be seen"
            )
        memories.check(self.memories)
        modules = (*self.conditions, *self.output_heads, *self.memories)
        for name in self.options:
            if name not in modules:
                raise InvalidInput(f"dynamics options has {name!r}; name one of {', '.join(modules)}")
        if len(self.action_scale.mean) not in (0, self.action_dim):
            raise InvalidInput(
                f"dynamics action_scale is of {len(self.action_scale.mean)} numbers, actions are of {self.action_dim}"
            )
        if {len(self.latent_low), len(self.latent_high)} not in ({0}, {self.channels}):
            raise InvalidInput(
                f"dynamics latent_low and latent_high are of {len(self.latent_low)} and {len(self.latent_high)} "
                f"channels; give {self.channels}, or none"
            )
        if self.height % self.patch[0] or self.width % self.patch[1]:
            raise InvalidInput(
                f"patch {self.patch} does not divide the latent grid {(self.height, self.width)}; choose one that does"
            )

    @property
    def tokens(self) -> int:
        """Tokens of one frame."""
        return (self.height // self.patch[0]) * (self.width // self.patch[1])

    @property
    def drawn_channels(self) -> int:
        """Channels that a step draws: the new frame's latents and those of the frames before it."""
        return self.channels * (1 + self.between)


@dataclass(frozen=True)
class ContextFeatures:
    """What the history says of a step, before anything is drawn; F frames are B * T in training and B in serving."""

    tokens: Tensor  # (F, N, D)
    local: Tensor  # (F, local, h, w), features of the previous frames at the latents' resolution; of numbers: `redraw`
    cond: Tensor  # (F, cond_dim)
    ages: Tensor  # (F,) int64, steps since the beginning of the episode at the last frame
    heads: dict[str, Tensor]  # what each head says, (F, ...); those that read the new frame once it is there
    actions: Tensor | None = None  # (F, A) that the frame is drawn with; None without action tokens

    @property
    def reward(self) -> Tensor:
        """(F,), in units of the reward scale; 0 where there is no such head."""
        return self.heads["reward"] if "reward" in self.heads else self.ages.new_zeros(len(self.ages)).float()

    @property
    def end_logit(self) -> Tensor:
        """(F,), of the episode's ending; where there is no such head it never comes."""
        return self.heads["ending"] if "ending" in self.heads else self.ages.new_full((len(self.ages),), -1e4).float()


@dataclass(frozen=True)
class Canvas:
    """What a step is drawn on: all that stays the same while it is denoised."""

    tokens: Tensor  # (F, N, D)
    cond: Tensor  # (F, cond_dim)
    previous: Tensor  # (F, C, h, w), what the frame is drawn as a change of: the last frame's latents
    past: Tensor  # (F, local, h, w), the latent decoder's first layer as far as it sees the past
    chunk: Chunk | None = None  # the actions; None without action tokens
    last: Tensor | None = None  # (F, C, h, w), the last frame's latents, by which actions are told; None likewise

    def rows(self, rows: Tensor) -> Canvas:
        """Some of the frames, by their indices (K,)."""
        chunk = None if self.chunk is None else self.chunk.rows(rows)
        last = None if self.last is None else self.last[rows]
        return Canvas(self.tokens[rows], self.cond[rows], self.previous[rows], self.past[rows], chunk, last)

    def detach(self) -> Canvas:
        """The same without gradients."""
        tokens, cond, previous, past = (a.detach() for a in (self.tokens, self.cond, self.previous, self.past))
        return Canvas(tokens, cond, previous, past, self.chunk, self.last)


class Dynamics(nn.Module):
    """All networks of a step; functions of their inputs only, the cache is passed in and out."""

    def __init__(self, config: DynamicsConfig) -> None:
        super().__init__()
        self.config = config
        c, d = config, config.dim
        cells = c.patch[0] * c.patch[1]
        self.conditions = conditions.build(c, c.conditions)
        self.local = nn.Sequential(
            nn.Conv2d(2 * c.channels, c.local, 3, padding=1), nn.SiLU(),
            nn.Conv2d(c.local, c.local, 3, padding=1), nn.SiLU(),
        )  # fmt: skip
        self.embed = nn.Linear(c.local * cells, d)
        self.position = nn.Parameter(nn.init.normal_(torch.empty(c.tokens, d), std=0.02))
        self.history = nn.ModuleList(HistoryBlock(c) for _ in range(c.history_blocks))
        self.history_mods = Modulation(c.cond_dim, d, HistoryBlock.PARTS, c.history_blocks)
        self.heads = Heads(c)
        self.noisy_embed = nn.Linear(c.drawn_channels * cells, d)
        self.level_embed = nn.Linear(2 * LEVEL_FEATURES, c.cond_dim)  # of noise level and step size
        self.denoiser = nn.ModuleList(DenoiserBlock(c) for _ in range(c.denoiser_blocks))
        self.denoiser_mods = Modulation(c.cond_dim, d, DenoiserBlock.PARTS, c.denoiser_blocks)
        self.latent_decoder = LatentDecoder(c)
        self.memories = Memories(c) if c.memories else None
        self.foreseen = Foreseen(c) if c.foreseen else None
        self.redrawn = Redrawn(c) if c.redraw else None
        self.acting = Acting(c) if c.action_tokens else None
        limits = torch.tensor([c.latent_low, c.latent_high]) if c.latent_low else torch.empty(0)
        self.limits: Tensor  # (2, C), or of no entries
        self.register_buffer("limits", limits, persistent=False)

    # -- shapes -------------------------------------------------------------------------------------------------

    def to_tokens(self, grid: Tensor) -> Tensor:
        """(F, c, h, w) -> (F, N, c * cells)."""
        return patches(grid, self.config.patch)

    def to_grid(self, tokens: Tensor) -> Tensor:
        """(F, N, c * cells) -> (F, c, h, w)."""
        p, q = self.config.patch
        return rearrange(tokens, "f (h w) (c p q) -> f c (h p) (w q)", p=p, q=q, h=self.config.height // p)

    # -- history ------------------------------------------------------------------------------------------------

    def _blocks(self) -> Iterable[HistoryBlock]:
        return cast("Iterable[HistoryBlock]", self.history)

    def _enter(self, previous: Tensor, before: Tensor, inputs: StepInputs) -> tuple[Tensor, ...]:
        """The last two frames' latents (F, C, h, w) and what else is known -> local, tokens, cond."""
        local = self.local(torch.cat([previous, before], dim=1))
        tokens = self.embed(self.to_tokens(local)) + self.position
        terms = [condition(inputs) for condition in self.conditions.values()]
        return local, tokens, reduce(add, terms)

    def _leave(
        self, local: Tensor, tokens: Tensor, cond: Tensor, inputs: StepInputs, ahead: Streams | None = None,
        known: Tensor | None = None,
    ) -> ContextFeatures:  # fmt: skip
        said = self.heads(tokens, inputs)
        if self.foreseen is not None:
            ahead = self.heads.sample(said) if ahead is None else ahead
            if known is not None:
                ahead = where_known(known, ahead, inputs.streams)
            cond = cond + self.foreseen(inputs.streams, ahead, known)
            if self.redrawn is not None:
                local = self.redrawn(inputs.streams | ahead)
        actions = None if self.acting is None else inputs.actions
        return ContextFeatures(tokens, local, cond, inputs.ages, said, actions)

    def forward(
        self, previous: Tensor, before: Tensor, actions: Tensor, level: Tensor, ages: Tensor,
        streams: Streams | None = None, ahead: Streams | None = None, known: Tensor | None = None,
    ) -> ContextFeatures:  # fmt: skip
        """A whole clip at once, F = B * T frames.

        Latents (B, T, C, h, w), actions (B, T, ...), level (B, T), steps since the beginning of the episode at the
        last frame, `ages` (B, T) int64, and the values of `streams` at the last frame (B, T, ...). Frames are drawn to
        fit the values `ahead` (F, ...) of the streams that are foreseen, by default what heads foresee. These would
        give the action away: `known` (F,) says which frames are drawn with it, by default all of them.
        """
        batch = len(level)
        previous, before, actions, level, ages = (a.flatten(0, 1) for a in (previous, before, actions, level, ages))
        inputs = StepInputs(
            actions, level, ages, {name: values.flatten(0, 1) for name, values in (streams or {}).items()}
        )
        local, x, cond = self._enter(previous, before, inputs)
        for block, mods in zip(self._blocks(), self.history_mods(cond), strict=True):
            s1, c1, g1, s2, c2, g2, s3, c3, g3 = mods
            x = gated(x, g1, block.space(modulate(x, s1, c1)))
            clip = rearrange(modulate(x, s2, c2), "(b t) n d -> b t n d", b=batch)
            x = gated(x, g2, block.time(clip).flatten(0, 1))
            x = gated(x, g3, block.mlp(modulate(x, s3, c3)))
        return self._leave(local, x, cond, inputs, ahead, known)

    def forward_cached(
        self, previous: Tensor, before: Tensor, actions: Tensor, level: Tensor, cache: KVCache,
        streams: Streams | None = None, known: Tensor | None = None,
    ) -> ContextFeatures:  # fmt: skip
        """The next step of every world, F = B: reads the cache and writes an entry into it.

        Latents (B, C, h, w), actions (B, ...), level (B,), and the values of `streams` at the last frame (B, ...);
        `known` as in `forward`.
        """
        inputs = StepInputs(actions, level, cache.ages, streams or {})
        local, x, cond = self._enter(previous, before, inputs)
        slots = cache.claim()  # the slots and the distance of every slot, the same for all blocks
        for index, (block, mods) in enumerate(zip(self._blocks(), self.history_mods(cond), strict=True)):
            s1, c1, g1, s2, c2, g2, s3, c3, g3 = mods
            x = gated(x, g1, block.space(modulate(x, s1, c1)))
            q, k, v = (a.unsqueeze(1) for a in block.time.project(modulate(x, s2, c2)))
            keys, values = cache.write(index, slots, k, v)
            x = gated(x, g2, block.time.read(q, keys, values, slots.bias(block.time.bias)).flatten(0, 1))
            x = gated(x, g3, block.mlp(modulate(x, s3, c3)))
        return self._leave(local, x, cond, inputs, known=known)

    # -- drawing ------------------------------------------------------------------------------------------------

    def prepare(self, features: ContextFeatures, previous: Tensor) -> Canvas:
        """Begin to draw on what the history says, with the last frame's latents (F, C, h, w)."""
        tokens, last = features.tokens, previous
        if self.redrawn is not None:
            previous = self.redrawn.background.to(previous.dtype).expand_as(previous)
            tokens = tokens + self.redrawn.embed(self.to_tokens(features.local))
        past = self.latent_decoder.enter_past(torch.cat([features.local, previous], dim=1))
        canvas = Canvas(tokens, features.cond, previous, past)
        if self.acting is None:
            return canvas
        assert features.actions is not None
        return replace(canvas, chunk=self.acting.taken(features.actions), last=last)

    def denoise(self, canvas: Canvas, noisy: Tensor, t: Tensor, size: Tensor) -> Tensor:
        """Predict the clean latents (x-prediction).

        `noisy` (F, drawn, h, w); `t` (F,) from 0 (pure noise) to 1 (clean); `size` (F,), the share of all the way
        from noise to frame that is to be gone in a straight line to the prediction, 0 for as little as can be
        (shortcut models; Frans et al., 2024).
        -> (F, drawn, h, w): the new frame first, then the frames between, oldest first.
        """
        return self._paint(self._denoised(canvas, noisy, t, size), canvas, noisy)

    def denoise_both(self, canvas: Canvas, noisy: Tensor, t: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
        """As `denoise`, and the clean actions (F, K, A) of the canvas's chunk, in deviations of the data.

        The frame's level is `t`, every action has its own in the chunk.
        """
        assert self.acting is not None
        x = self._denoised(canvas, noisy, t, size)
        return self._paint(x, canvas, noisy), self.acting.read(x[:, self.config.tokens :])

    def _denoised(self, canvas: Canvas, noisy: Tensor, t: Tensor, size: Tensor) -> Tensor:
        """The denoiser's output (F, N, D), or (F, N + K, D) with tokens of actions."""
        x = canvas.tokens + self.noisy_embed(self.to_tokens(noisy))
        dtype = self.level_embed.weight.dtype
        features = fourier_features(torch.stack([t, size], dim=-1), LEVEL_FEATURES).flatten(-2)
        cond = canvas.cond + self.level_embed(features.to(dtype))
        if self.acting is not None:
            assert canvas.chunk is not None and canvas.last is not None
            frame = noisy[:, : self.config.channels]
            change = frame - t[:, None, None, None].to(frame.dtype) * canvas.last
            actions, told = self.acting(canvas.chunk, frame, change)
            x, cond = torch.cat([x, actions], dim=1), cond + told
        for block, mods in zip(self.denoiser, self.denoiser_mods(cond), strict=True):
            x = block(x, mods)
        return x

    def _paint(self, x: Tensor, canvas: Canvas, noisy: Tensor) -> Tensor:
        """Clean latents (F, drawn, h, w) of the denoiser's output."""
        x = x[:, : self.config.tokens]
        film_input = self.to_grid(self.latent_decoder.film_input(F.layer_norm(x, x.shape[-1:])))
        change = self.latent_decoder(film_input, canvas.past, noisy)
        return canvas.previous.repeat(1, 1 + self.config.between, 1, 1) + change

    def limited(self, clean: Tensor) -> Tensor:
        """Clean latents (F, drawn, h, w) within the range of the data (static thresholding; Saharia et al., 2022).

        Beyond it, neither the next steps nor the tokenizer's decoder know what they do.
        """
        if not self.config.latent_low:
            return clean
        low, high = self.limits.to(clean.dtype).repeat(1, 1 + self.config.between)[:, :, None, None]
        return torch.minimum(torch.maximum(clean, low), high)
