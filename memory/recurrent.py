"""A recurrent state of constant size: what is not a place, such as a count, or a thing that was taken.

Every token of a frame has a state of its own that is mixed with what it sees, by a gate that it computes (a minimal
gated unit, as minGRU; Feng et al., 2024), block by block as in *Long-Context State-Space Video World Models* (Po et
al., 2025). Gates begin with time constants from a few steps to some hundred. The history attends to the states.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worldsim.errors import check_bounds
from worldsim.memory.base import Context, MemorySpec, Observed, Query
from worldsim.models.dynamics import DynamicsConfig
from worldsim.models.layers import patches
from worldsim.models.memories import memories
from worldsim.models.registry import options_of


@dataclass(frozen=True)
class RecurrentOptions:
    """Sizes of the state."""

    width: int = 64  # numbers of a token's state
    longest: float = 400.0  # steps, the longest time constant to begin with

    def __post_init__(self) -> None:
        check_bounds("recurrent", self, width=(1, 8192), longest=(2, 1e6))


@memories.register("recurrent")
class Recurrent(nn.Module):
    """The memory "recurrent": a state (B, N, width) float32, read as tokens."""

    def __init__(self, config: DynamicsConfig, stream: str) -> None:
        super().__init__()
        o = options_of(config, "recurrent", stream, RecurrentOptions)
        self.patch, self.shape = config.patch, (config.tokens, o.width)
        sees = config.channels * config.patch[0] * config.patch[1]
        self.spec = MemorySpec(tokens=o.width)
        self.enter, self.gate = nn.Linear(sees, o.width), nn.Linear(sees, o.width)
        nn.init.zeros_(self.gate.weight)
        constants = torch.exp(torch.linspace(math.log(2.0), math.log(o.longest), o.width))
        self.gate.bias.data = torch.logit(1 / constants)

    def empty(self, batch: int) -> Tensor:
        """As `Memory.empty`."""
        return torch.zeros(batch, *self.shape)

    def read(self, tree: Tensor, query: Query) -> Context:
        """As `Memory.read`."""
        return Context(tokens=tree)

    def write(self, tree: Tensor, observed: Observed) -> Tensor:
        """As `Memory.write`."""
        seen = patches(observed.latents, self.patch).to(self.enter.weight.dtype)  # (B, N, C * cells)
        share = torch.sigmoid(self.gate(seen).float())
        return (1 - share) * tree + share * torch.tanh(self.enter(seen).float())
