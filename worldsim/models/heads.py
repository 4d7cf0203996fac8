"""What a step says besides the next frame: small modules, named in the config, that share a trunk and a last layer.

A head from outside the package is a subclass that is registered before the world is built:

    @heads.register("success")
    class Success(Head):
        outputs = 1
        def forward(self, features): ...
        def loss(self, out, targets): ...
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.models.conditions import stream_spec
from worldsim.models.registry import Normalise, Registry, Scale, StepInputs, Streams

if TYPE_CHECKING:
    from worldsim.models.dynamics import DynamicsConfig

SQUEEZED = 32  # features of a token that heads read
HIDDEN = 128  # features of a frame that they read from these


@dataclass(frozen=True)
class Features:
    """What a head reads of F steps: the history's output."""

    read: Tensor  # (F, outputs) float32, the head's own numbers of the shared last layer
    tokens: Tensor  # (F, N, D)
    inputs: StepInputs


@dataclass(frozen=True)
class Targets:
    """What came of F steps, to learn from."""

    reward: Tensor  # (F,), in units of the reward scale
    terminated: Tensor  # (F,) bool
    event: Tensor  # (F,) bool, an ending or what comes before one
    counted: Tensor  # (F,) float, how much each step counts; 0: not at all
    streams: Streams = field(default_factory=dict)  # at the frame that the step leads to


class Head(nn.Module):
    """One thing that a step says; built with (config, name of the stream that it may predict)."""

    outputs = 1  # numbers of the shared last layer that it reads
    weight = 1.0  # of its loss

    def __init__(self, config: DynamicsConfig, stream: str) -> None:
        super().__init__()
        self.stream = stream

    def forward(self, features: Features) -> Tensor:
        """What it says of F steps, (F, ...) float32."""
        raise NotImplementedError

    def loss(self, out: Tensor, targets: Targets) -> Tensor:
        """A scalar."""
        raise NotImplementedError

    def sample(self, out: Tensor) -> Streams:
        """What the next step begins with: the new values of streams, (F, ...), as recorded; none where it has none."""
        return {}


heads: Registry[Head] = Registry("head")


@heads.register("reward")
class RewardHead(Head):
    """The reward, (F,), in units of the reward scale."""

    weight = 0.1

    def forward(self, features: Features) -> Tensor:
        """As `Head.forward`."""
        return features.read[:, 0]

    def loss(self, out: Tensor, targets: Targets) -> Tensor:
        """Squared error."""
        return (targets.counted * (out - targets.reward).square()).mean()


@heads.register("ending")
class EndingHead(Head):
    """The logit of the episode's ending, (F,)."""

    weight = 2.0

    def forward(self, features: Features) -> Tensor:
        """As `Head.forward`."""
        return features.read[:, 0]

    def loss(self, out: Tensor, targets: Targets) -> Tensor:
        """Cross-entropy."""
        return F.binary_cross_entropy_with_logits(out, targets.terminated.float(), weight=targets.counted)


@heads.register("event")
class EventHead(EndingHead):
    """The logit of an ending or of a precursor of one, (F,): it is learned from and not used when dreaming."""

    def loss(self, out: Tensor, targets: Targets) -> Tensor:
        """Cross-entropy."""
        return F.binary_cross_entropy_with_logits(out, targets.event.float(), weight=targets.counted)


@heads.register("proprio")
class VectorHead(Head):
    """The next values of a vector stream, (F, entries) normalised, as a change of the present ones.

    Its value is part of the state and conditions the next step. "proprio" predicts the stream of that name,
    "proprio:pose" the stream "pose".
    """

    def __init__(self, config: DynamicsConfig, stream: str) -> None:
        super().__init__(config, stream)
        spec = stream_spec(config, stream)
        self.shape, self.outputs = spec.shape, math.prod(spec.shape)
        self.normalise = Normalise(config.scales.get(stream, Scale()))
        self.low, self.high = (torch.from_numpy(bound).float() for bound in spec.bounds())

    def _apply(self, fn: object, recurse: bool = True) -> VectorHead:
        """Bounds stay what they are in float32."""
        super()._apply(fn, recurse)
        self.low, self.high = (a.to(fn(a).device) for a in (self.low, self.high))  # type: ignore[operator]
        return self

    def forward(self, features: Features) -> Tensor:
        """As `Head.forward`."""
        return self.normalise(features.inputs.stream(self.stream).flatten(1).float()) + features.read

    def loss(self, out: Tensor, targets: Targets) -> Tensor:
        """Squared error in deviations of the data."""
        wanted = self.normalise(targets.streams[self.stream].flatten(1).float())
        return (targets.counted * (out - wanted).square().mean(1)).mean()

    def sample(self, out: Tensor) -> Streams:
        """The values, within the stream's bounds."""
        return {self.stream: self.normalise.undo(out).reshape(-1, *self.shape).clamp(self.low, self.high)}


class Heads(nn.Module):
    """The heads of a model over one trunk: a small network reads all tokens, and a last layer has rows for each head.

    One product for all of them costs as much as one for a single head.
    """

    def __init__(self, config: DynamicsConfig) -> None:
        super().__init__()
        self.squeeze = nn.Linear(config.dim, SQUEEZED)
        self.trunk = nn.Linear(SQUEEZED * config.tokens, HIDDEN)
        modules = heads.build(config, config.output_heads)
        self.outputs = [cast(Head, module).outputs for module in modules.values()]
        self.last = nn.Linear(HIDDEN, sum(self.outputs))
        self.each = modules

    def named(self) -> list[tuple[str, Head]]:
        """The heads by their names in the config."""
        return [(name, cast(Head, module)) for name, module in self.each.items()]

    def forward(self, tokens: Tensor, inputs: StepInputs, keep: Tensor | float = 1.0) -> dict[str, Tensor]:
        """What each head says of the history's tokens (F, N, D).

        `keep` (F, N, SQUEEZED) is for training: factors of the features, some of them 0 (dropout).
        """
        squeezed = F.gelu(self.squeeze(F.layer_norm(tokens, tokens.shape[-1:]))) * keep
        read = self.last(F.gelu(self.trunk(squeezed.flatten(1)))).float().split(self.outputs, dim=-1)
        return {
            name: head(Features(part, tokens, inputs)) for (name, head), part in zip(self.named(), read, strict=True)
        }

    def sample(self, said: dict[str, Tensor]) -> Streams:
        """The streams that the next step begins with, of what the heads said."""
        streams: Streams = {}
        for name, head in self.named():
            streams |= head.sample(said[name])
        return streams
