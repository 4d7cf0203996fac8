"""What computes a step's networks: `Engine`, and the one that runs them as they are written, `Eager`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from worldsim.models.cache import KVCache
from worldsim.models.dynamics import Dynamics, HistoryOut
from worldsim.models.registry import Streams
from worldsim.sampling import Drawn, SamplingConfig, StepNoise, draw, look_back


class Engine(Protocol):
    """The two halves of a step: functions of their arguments; the cache is read and written."""

    def look_back(self, past: Tensor, actions: Tensor, cache: KVCache, context: Tensor, streams: Streams) -> HistoryOut:
        """As `worldsim.sampling.look_back`."""
        ...

    def draw(self, past: Tensor, seen: HistoryOut, drawn_from: StepNoise) -> Drawn:
        """As `worldsim.sampling.draw`."""
        ...

    def with_sampling(self, sampling: SamplingConfig) -> Engine:
        """One that draws otherwise."""
        ...


@dataclass(frozen=True)
class Eager:
    """PyTorch's own kernels, one call after the other."""

    dynamics: Dynamics
    sampling: SamplingConfig

    def look_back(self, past: Tensor, actions: Tensor, cache: KVCache, context: Tensor, streams: Streams) -> HistoryOut:
        """As `worldsim.sampling.look_back`."""
        return look_back(self.dynamics, self.sampling, past, actions, cache, context, streams)

    def draw(self, past: Tensor, seen: HistoryOut, drawn_from: StepNoise) -> Drawn:
        """As `worldsim.sampling.draw`."""
        return draw(self.dynamics, self.sampling, past, seen, drawn_from)

    def with_sampling(self, sampling: SamplingConfig) -> Eager:
        """One that draws otherwise."""
        return Eager(self.dynamics, sampling)
