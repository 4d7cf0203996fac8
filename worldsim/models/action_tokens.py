"""Action tokens: the next few actions, denoised by one network under frames that have a noise level of their own.

As in Unified World Models (Zhu et al., 2025) actions and the next frame each have a level, so that one network has
several uses. With the next frame known (level 1) it says what was done: inverse dynamics. With nothing known of it
(level 0) it says what to do: a policy. In between, the frame may be a dreamed one. What the actions are to lead to is a
condition, which may be unknown: recordings of all skills teach what follows from what, the outcome picks what to do.

The world's own dynamics make frames of actions; these weights lie beside the world's and change nothing of them. A
world that was trained with action tokens of its own needs none beside it (`worldsim.models.acting`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.errors import check_bounds
from worldsim.models.audio import Drawer
from worldsim.models.layers import fourier_features
from worldsim.models.registry import Normalise, Streams
from worldsim.models.state_heads import Numbers
from worldsim.sampling.sampler import levels, solve_ode

if TYPE_CHECKING:
    from worldsim.models.dynamics import DynamicsConfig
    from worldsim.spec import StreamSpec

LEVEL_FEATURES = 16


@dataclass(frozen=True)
class ActionTokensConfig:
    """Sizes, and how actions are drawn."""

    chunk: int = 4  # actions that are denoised together
    streams: tuple[str, ...] = ()  # of the world's, what is read besides frames: vectors, and tokens that are tasks
    channels: int = 64  # of the convolutions over latents
    width: int = 256  # of what is known
    hidden: int = 384  # of the network that denoises
    steps: int = 4  # in which a chunk is drawn
    temperature: float = 0.0  # scale of the noise that it is drawn from; 0: what is likeliest in the mean

    def __post_init__(self) -> None:
        widths = (1, 4096)
        check_bounds(
            "action tokens", self, chunk=(1, 64), channels=widths, width=widths, hidden=widths, steps=(1, 256),
            temperature=(0, 100),
        )  # fmt: skip


@dataclass(frozen=True)
class Known:
    """What actions are denoised under; F rows."""

    frame: Tensor  # (F, C, h, w), latents
    previous: Tensor  # (F, C, h, w), of the frame before; the frame itself where there was none
    streams: Streams  # (F, ...) at the frame
    sensed: Tensor  # (F,) bool, whether these streams are known
    next_frame: Tensor  # (F, C, h, w), as noisy as its level says
    next_level: Tensor  # (F,), from 0, noise, to 1
    outcome: Tensor  # (F,) int64, as in `worldsim.models.acting`: UNKNOWN, NOT_SOON or SOON


class ActionTokens(nn.Module):
    """Denoises chunks of continuous actions, (F, chunk * A) in deviations of the data."""

    def __init__(self, config: ActionTokensConfig, dynamics: DynamicsConfig) -> None:
        super().__init__()
        self.config, self.numbers_drawn = config, config.chunk * dynamics.action_dim
        self.action_dim, c = dynamics.action_dim, config
        self.normalise = Normalise(dynamics.action_scale)
        streams = {name: dynamics.streams[name] for name in c.streams}
        self.numbers = Numbers(_only(dynamics, streams))
        self.enter = nn.Conv2d(3 * dynamics.channels, c.channels, 3, padding=1)
        self.inner = nn.ModuleList(nn.Conv2d(c.channels, c.channels, 3, padding=1) for _ in range(2))
        self.shrink = nn.Conv2d(c.channels, c.channels, 3, stride=2, padding=1)
        cells = -(-dynamics.height // 2) * -(-dynamics.width // 2)
        self.see = nn.Linear(c.channels * cells, c.width)
        self.feel = nn.Sequential(nn.Linear(self.numbers.size + 1, c.width), nn.SiLU(), nn.Linear(c.width, c.width))
        self.level = nn.Linear(LEVEL_FEATURES, c.channels)
        self.outcome = nn.Embedding(3, c.width)
        self.join = nn.Linear(c.width, c.width)
        self.drawer = Drawer(self.numbers_drawn, c.width, c.hidden)

    def read(self, known: Known) -> Tensor:
        """What is known as one vector, (F, width)."""
        change = known.next_frame - known.next_level.view(-1, 1, 1, 1) * known.frame  # and noise
        grid = torch.cat([known.frame, known.frame - known.previous, change], dim=1)  # (F, 3 * C, h, w)
        grid = grid.to(self.see.weight.dtype)
        level = self.level(fourier_features(known.next_level, LEVEL_FEATURES).to(grid.dtype))
        x = self.enter(grid) + level[:, :, None, None]
        for layer in self.inner:
            x = x + layer(F.silu(x))
        seen = self.see(F.silu(self.shrink(F.silu(x))).flatten(1))
        sensed = known.sensed.to(torch.float32)[:, None]
        numbers = self.numbers(known.streams) if self.config.streams else sensed[:, :0]
        felt = self.feel(torch.cat([numbers * sensed, sensed], dim=-1).to(grid.dtype))
        return F.gelu(self.join(F.gelu(seen + felt + self.outcome(known.outcome))))

    def denoise(self, noisy: Tensor, context: Tensor, level: Tensor) -> Tensor:
        """Predict clean chunks (..., chunk * A) of noisy ones of a level (...), given `read`'s (..., width)."""
        clean: Tensor = self.drawer(noisy, context, level)
        return clean

    def draw(self, known: Known, noise: Tensor) -> Tensor:
        """Actions (F, chunk, A) as the simulator takes them, from noise (F, chunk * A)."""
        context = self.read(known)

        def predict(z: Tensor, t: float) -> Tensor:
            return self.denoise(z, context, torch.full(z.shape[:-1], t, device=z.device)).float()

        c = self.config
        drawn = solve_ode(predict, c.temperature * noise.float(), [*levels(c.steps), 1.0], small=False)
        return self.normalise.undo(drawn.unflatten(-1, (c.chunk, self.action_dim)))


def _only(dynamics: DynamicsConfig, streams: dict[str, StreamSpec]) -> DynamicsConfig:
    """The config of a model that reads these streams alone."""
    conditions = tuple(name for name in dynamics.conditions if not {*name.split(":")}.isdisjoint(streams))
    return replace(
        dynamics, streams=streams, conditions=conditions, output_heads=("reward",), head_reads={}, memories=(),
        options={}, foreseen=(), redraw=False,
    )  # fmt: skip
