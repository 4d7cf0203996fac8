"""What a step is conditioned on besides the last frames: small modules, named in the config, whose outputs are added.

A condition from outside the package is a subclass that is registered before the world is built:

    @conditions.register("wind")
    class Wind(Condition):
        def __init__(self, config, stream): ...
        def forward(self, inputs): ...  # (F, cond_dim)
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from worldsim.errors import InvalidInput
from worldsim.models.layers import fourier_features
from worldsim.models.registry import Normalise, Registry, Scale, StepInputs

if TYPE_CHECKING:
    from worldsim.models.dynamics import DynamicsConfig
    from worldsim.spec import StreamSpec

LEVEL_FEATURES = 32
AGE_FEATURES = 8
FINEST_AGE = 4.0  # half turns of the finest of them: the world is to know how late it is, not which episode it saw


class Condition(nn.Module):
    """One term of the condition of adaLN; built with (config, name of the stream that it may read)."""

    def forward(self, inputs: StepInputs) -> Tensor:
        """(F, cond_dim), in the number format of the weights."""
        raise NotImplementedError


conditions: Registry[Condition] = Registry("condition")


@conditions.register("action")
class ActionCondition(Condition):
    """The action: an embedding of discrete ones; continuous ones are normalised by the data's statistics, here only."""

    def __init__(self, config: DynamicsConfig, stream: str) -> None:
        super().__init__()
        self.first = config.action_start if config.actions else None
        if config.actions:
            self.embed: nn.Module = nn.Embedding(config.actions, config.cond_dim)
        else:
            self.embed = nn.Linear(config.action_dim, config.cond_dim)
        self.normalise = Normalise(config.action_scale)

    def forward(self, inputs: StepInputs) -> Tensor:
        """As `Condition.forward`."""
        actions = inputs.actions
        if self.first is None:
            actions = self.normalise(actions).to(_dtype(self.embed))
        elif self.first:
            actions = actions - self.first
        return self.embed(actions)


@conditions.register("noise_level")
class NoiseLevelCondition(Condition):
    """The level of the noise on the last frames."""

    def __init__(self, config: DynamicsConfig, stream: str) -> None:
        super().__init__()
        self.embed = nn.Linear(LEVEL_FEATURES, config.cond_dim)

    def forward(self, inputs: StepInputs) -> Tensor:
        """As `Condition.forward`."""
        return self.embed(fourier_features(inputs.level, LEVEL_FEATURES).to(_dtype(self.embed)))


@conditions.register("episode_time")
class EpisodeTimeCondition(Condition):
    """How late it is in the episode, from steps since its beginning."""

    def __init__(self, config: DynamicsConfig, stream: str) -> None:
        super().__init__()
        self.max_time = config.max_time
        self.embed = nn.Linear(AGE_FEATURES, config.cond_dim, bias=False)
        nn.init.zeros_(self.embed.weight)

    def forward(self, inputs: StepInputs) -> Tensor:
        """As `Condition.forward`."""
        late = (inputs.ages / self.max_time).clamp(max=1.0)
        return self.embed(fourier_features(late, AGE_FEATURES, FINEST_AGE).to(_dtype(self.embed)))


@conditions.register("episode_phase")
class EpisodePhaseCondition(Condition):
    """Where it is between two strokes of a clock that begins with the episode, such as one that brings opponents."""

    def __init__(self, config: DynamicsConfig, stream: str) -> None:
        super().__init__()
        self.period = config.period
        self.embed = nn.Embedding(config.period, config.cond_dim)
        nn.init.normal_(self.embed.weight, std=0.25)  # what comes by the clock is rare: tell its hours apart at once

    def forward(self, inputs: StepInputs) -> Tensor:
        """As `Condition.forward`."""
        return self.embed(inputs.ages % self.period)


@conditions.register("proprio")
class VectorCondition(Condition):
    """A vector stream at the last frame: "proprio" reads the stream of that name, "proprio:pose" the stream "pose"."""

    def __init__(self, config: DynamicsConfig, stream: str) -> None:
        super().__init__()
        self.stream, spec = stream, stream_spec(config, stream)
        self.normalise = Normalise(config.scales.get(stream, Scale()))
        self.embed = nn.Sequential(
            nn.Linear(math.prod(spec.shape), config.cond_dim), nn.SiLU(), nn.Linear(config.cond_dim, config.cond_dim)
        )

    def forward(self, inputs: StepInputs) -> Tensor:
        """As `Condition.forward`."""
        values = self.normalise(inputs.stream(self.stream).flatten(1))
        return self.embed(values.to(_dtype(self.embed[0])))


@conditions.register("task")
class TaskCondition(Condition):
    """What is to be done, a token stream whose names say how many tasks there are; the same for a whole episode."""

    def __init__(self, config: DynamicsConfig, stream: str) -> None:
        super().__init__()
        self.stream, spec = stream, stream_spec(config, stream)
        if spec.kind != "token" or spec.shape or not spec.names:
            raise InvalidInput(f"the condition task reads one token with names, {stream!r} is {spec}; name its values")
        self.embed = nn.Embedding(len(spec.names), config.cond_dim)

    def forward(self, inputs: StepInputs) -> Tensor:
        """As `Condition.forward`."""
        return self.embed(inputs.stream(self.stream).long())


def stream_spec(config: DynamicsConfig, stream: str) -> StreamSpec:
    """What the config says of a stream; raises InvalidInput where it says nothing."""
    if stream not in config.streams:
        raise InvalidInput(f"the config describes no stream {stream!r}; add it to its streams")
    return config.streams[stream]


def _dtype(layer: nn.Module) -> torch.dtype:
    return cast(Tensor, layer.weight).dtype
