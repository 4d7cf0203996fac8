"""What a step says besides the next frame: small modules, named in the config, that share a trunk and a last layer.

A head reads the history, which knows nothing of the noise that the frame is drawn from, the frame that was drawn, or
both; the config's `head_reads` says which. Those that read the frame have a second trunk, which is absent without them.

A head from outside the package is a subclass that is registered before the world is built:

    @heads.register("contact")
    class Contact(Head):
        outputs = 1
        reads = "both"  # unless the config says otherwise
        def forward(self, features): ...
        def loss(self, out, targets): ...
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.models.conditions import stream_spec
from worldsim.models.layers import patches
from worldsim.models.registry import Normalise, Registry, Scale, StepInputs, Streams

if TYPE_CHECKING:
    from worldsim.models.dynamics import DynamicsConfig

SQUEEZED = 32  # features of a token that heads read
HIDDEN = 128  # features of a frame that they read from these


Reads = Literal["history", "frame", "both"]  # what a head reads


@dataclass(frozen=True)
class Features:
    """What a head reads of F steps: the history's output, the new frame, or both."""

    read: Tensor  # (F, outputs) float32, the head's own numbers of the shared last layer
    tokens: Tensor | None  # (F, N, D), the history's output; None for a head that reads the frame alone
    inputs: StepInputs
    frame: Tensor | None = None  # (F, C, h, w), the new frame's latents; None for a head that reads the history alone
    previous: Tensor | None = None  # (F, C, h, w), those of the frame before it; None likewise
    ahead: Streams = field(
        default_factory=dict
    )  # (F, ...) at the new frame as others foresee it, for heads that read it


@dataclass(frozen=True)
class Targets:
    """What came of F steps, to learn from."""

    reward: Tensor  # (F,), in units of the reward scale
    terminated: Tensor  # (F,) bool
    event: Tensor  # (F,) bool, an ending or what comes before one
    counted: Tensor  # (F,) float, how much each step counts; 0: not at all
    streams: Streams = field(default_factory=dict)  # at the frame that the step leads to
    actions: Tensor | None = None  # (F,) int64 or (F, A) float32, that led there, as the simulator takes them


class Head(nn.Module):
    """One thing that a step says; built with (config, name of the stream that it may predict)."""

    outputs = 1  # numbers of the shared last layer that it reads
    weight = 1.0  # of its loss
    reads: Reads = "history"  # where the config's `head_reads` does not name it
    reads_action = False  # whether it reads the step's action itself, and not what the history says of it
    reads_off = False  # whether it needs nothing but a frame, and so can say what a given one shows

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
        """What the next step begins with: the new values of streams, (F, ...), as recorded; none where it has none.

        What is no stream of the world is told in the info of a step.
        """
        return {}


heads: Registry[Head] = Registry(
    "head",
    {
        "depth": "worldsim.models.places",
        "pose": "worldsim.models.places",
        "spread": "worldsim.models.ensemble",
    },
)


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


def reads_of(config: DynamicsConfig, name: str) -> Reads:
    """What the head of that name reads.

    With action tokens the history does not see the action, so that its heads read the new frame and the action, too.
    """
    kind = cast(type[Head], heads.kind(name))
    blind = config.action_tokens and kind.reads == "history" and not kind.reads_action
    return config.head_reads.get(name) or ("both" if blind else kind.reads)


class FrameTrunk(nn.Module):
    """The trunk and last layer of heads that read the drawn frame: its latents and how they changed, token by token."""

    def __init__(self, config: DynamicsConfig, outputs: list[int], *, history: bool) -> None:
        """For heads with so many `outputs` each; with `history` they read the history's tokens, too.

        Where these do not see the action, in worlds with action tokens, it is read here.
        """
        super().__init__()
        self.patch, self.outputs = config.patch, outputs
        self.squeeze_frame = nn.Linear(2 * config.channels * config.patch[0] * config.patch[1], SQUEEZED)
        self.squeeze = nn.Linear(config.dim, SQUEEZED) if history else None
        told = config.action_dim if history and config.action_tokens else 0
        self.trunk = nn.Linear(SQUEEZED * config.tokens * (1 + history) + told, HIDDEN)
        self.normalise = Normalise(config.action_scale) if told else None
        self.last = nn.Linear(HIDDEN, sum(outputs))

    def forward(
        self, frame: Tensor, previous: Tensor, tokens: Tensor | None, keep: Tensor | float, inputs: StepInputs
    ) -> tuple[Tensor, ...]:
        """Latents (F, C, h, w) of the new frame and of the one before, the history's tokens, what is known of
        the step -> (F, outputs) a head."""
        grid = torch.cat([frame, frame - previous], dim=1).to(self.squeeze_frame.weight.dtype)  # (F, 2 * C, h, w)
        squeezed = F.gelu(self.squeeze_frame(patches(grid, self.patch))) * keep  # (F, N, SQUEEZED)
        if self.squeeze is not None and tokens is not None:
            history = F.gelu(self.squeeze(F.layer_norm(tokens, tokens.shape[-1:]))) * keep
            squeezed = torch.cat([squeezed, history], dim=-1)
        row = squeezed.flatten(1)
        if self.normalise is not None:
            row = torch.cat([row, self.normalise(inputs.actions).to(row.dtype)], dim=-1)
        return self.last(F.gelu(self.trunk(row))).float().split(self.outputs, dim=-1)


class Heads(nn.Module):
    """The heads of a model over one trunk: a small network reads all tokens, and a last layer has rows for each head.

    One product for all of them costs as much as one for a single head. What reads the frame has a trunk of its own.
    """

    def __init__(self, config: DynamicsConfig) -> None:
        super().__init__()
        kinds = {name: reads_of(config, name) for name in config.output_heads}
        self.of: dict[Reads, list[str]] = {
            kind: [name for name, reads in kinds.items() if reads == kind] for kind in ("history", "frame", "both")
        }
        if self.of["history"]:
            self.squeeze = nn.Linear(config.dim, SQUEEZED)
            self.trunk = nn.Linear(SQUEEZED * config.tokens, HIDDEN)
        modules = heads.build(config, config.output_heads)
        outputs = {kind: [cast(Head, modules[name]).outputs for name in names] for kind, names in self.of.items()}
        self.outputs = outputs["history"]
        if self.of["history"]:
            self.last = nn.Linear(HIDDEN, sum(self.outputs))
        self.late = nn.ModuleDict(
            {
                kind: FrameTrunk(config, outputs[kind], history=kind == "both")
                for kind in ("frame", "both")
                if self.of[kind]
            }
        )
        self.each = modules

    def named(self) -> list[tuple[str, Head]]:
        """The heads by their names in the config."""
        return [(name, cast(Head, module)) for name, module in self.each.items()]

    def forward(self, tokens: Tensor, inputs: StepInputs, keep: Tensor | float = 1.0) -> dict[str, Tensor]:
        """What each head that reads the history alone says of its tokens (F, N, D).

        `keep` (F, N, SQUEEZED) is for training: factors of the features, some of them 0 (dropout).
        """
        if not self.of["history"]:
            return {}
        squeezed = F.gelu(self.squeeze(F.layer_norm(tokens, tokens.shape[-1:]))) * keep
        read = self.last(F.gelu(self.trunk(squeezed.flatten(1)))).float().split(self.outputs, dim=-1)
        return {
            name: self._head(name)(Features(part, tokens, inputs))
            for name, part in zip(self.of["history"], read, strict=True)
        }

    def of_frame(
        self, frame: Tensor, previous: Tensor, tokens: Tensor, inputs: StepInputs, keep: Tensor | float = 1.0,
        ahead: Streams | None = None,
    ) -> dict[str, Tensor]:  # fmt: skip
        """What each head that reads the new frame says of it; none where no head does.

        Latents (F, C, h, w) of the new frame, drawn or given, and of the one before, and the values `ahead` (F, ...) of
        streams at the new frame, as heads of the history foresee them; the rest as in `forward`.
        """
        said: dict[str, Tensor] = {}
        for kind, trunk in self.late.items():
            seen = tokens if kind == "both" else None
            names = self.of[cast(Reads, kind)]
            for name, part in zip(names, trunk(frame, previous, tokens, keep, inputs), strict=True):
                said[name] = self._head(name)(Features(part, seen, inputs, frame, previous, ahead or {}))
        return said

    def said_of_frames(self, frame: Tensor, previous: Tensor, name: str, inputs: StepInputs) -> Tensor:
        """What one head that reads the frame alone says of frames (F, C, h, w) and those before, without a history."""
        parts = self.late["frame"](frame, previous, None, 1.0, inputs)
        return self._head(name)(Features(parts[self.of["frame"].index(name)], None, inputs, frame, previous))

    def read_off(self, frame: Tensor) -> Streams:
        """What heads that need nothing but a frame say of latents (F, C, h, w): streams as recorded, or {}."""
        return self.sample(self.said_of(frame))

    def said_of(self, frame: Tensor) -> dict[str, Tensor]:
        """What each head that needs nothing but a frame says of latents (F, C, h, w), by its name.

        Of a frame that none came before, which stands for itself in the trunk.
        """
        names = [name for name in self.of["frame"] if self._head(name).reads_off]
        if not names:
            return {}
        level, count = frame.new_zeros(len(frame), dtype=torch.float32), frame.new_zeros(len(frame), dtype=torch.int64)
        inputs = StepInputs(count, level, count)
        parts = self.late["frame"](frame, frame, frame, 1.0, inputs)
        read = dict(zip(self.of["frame"], parts, strict=True))
        return {n: self._head(n)(Features(read[n], None, inputs, frame, frame)) for n in names}

    @property
    def streams_read_off(self) -> set[str]:
        """The streams that `read_off` gives."""
        return {self._head(name).stream for name in self.of["frame"] if self._head(name).reads_off}

    def _head(self, name: str) -> Head:
        return cast(Head, self.each[name])

    def sample(self, said: dict[str, Tensor]) -> Streams:
        """The streams that the next step begins with, of what some or all of the heads said."""
        streams: Streams = {}
        for name, head in self.named():
            if name in said:
                streams |= head.sample(said[name])
        return streams
