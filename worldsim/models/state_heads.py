"""State first: heads that predict numbers by numbers, a flag read off them, and a frame that is drawn to fit them.

A hand that is a pixel wrong looks right; a hand that is a centimetre wrong misses. So the numbers of a robot's world
are predicted by a small network of the numbers (`motion`), whether something holds by what they will be (`success`),
and the frame is drawn with those numbers as a condition (`Foreseen`), so that it shows what they say. How far several
such networks disagree says how sure a prediction is (`spread`).

These networks are learned from numbers alone (`worldsim.train.state_first`); no loss of frames reaches them. They
compute in float32, whatever the rest does: contact is a matter of less than bfloat16 can tell.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from worldsim.errors import InvalidInput, check_bounds
from worldsim.models.conditions import stream_spec
from worldsim.models.heads import Features, Head, Reads, Targets, VectorHead, heads, reads_of
from worldsim.models.registry import Normalise, Scale, Streams, options_of

if TYPE_CHECKING:
    from worldsim.models.dynamics import DynamicsConfig

HIDDEN = 128
PLACE = 64  # features of a token's place, where frames are drawn anew


class Numbers(nn.Module):
    """All vectors of the config's streams, and the tokens that are conditions, as one row of numbers (F, size)."""

    def __init__(self, config: DynamicsConfig) -> None:
        super().__init__()
        told = {stream or kind for kind, _, stream in (name.partition(":") for name in config.conditions)}
        streams = sorted(config.streams.items())
        self.vectors = [name for name, spec in streams if spec.kind == "vector"]
        self.tokens = {n: len(s.names) for n, s in streams if s.kind == "token" and n in told and s.names}
        self.scaled = nn.ModuleDict({name: Normalise(config.scales.get(name, Scale())) for name in self.vectors})
        self.size = sum(math.prod(config.streams[name].shape) for name in self.vectors) + sum(self.tokens.values())

    def forward(self, streams: Streams) -> Tensor:
        """(F, size) float32; raises KeyError where one is missing."""
        vectors = [self.scaled[name](streams[name].flatten(1).float()) for name in self.vectors]
        tokens = [F.one_hot(streams[name].long(), count).float() for name, count in self.tokens.items()]
        return torch.cat(vectors + tokens, dim=-1)


@dataclass(frozen=True)
class NumbersOptions:
    """Options of `motion` and `success`."""

    hidden: int = HIDDEN  # width of the network
    history: bool = True  # whether it adds what the history and the frame show, which numbers may not say

    def __post_init__(self) -> None:
        check_bounds("head", self, hidden=(1, 8192))


class Exact(nn.Sequential):
    """Layers that stay in float32 on whatever device they are: two hidden ones; says 0 before it has learned."""

    def __init__(self, inputs: int, outputs: int, hidden: int) -> None:
        last = nn.Linear(hidden, outputs)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        super().__init__(nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), last)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Exact:
        return cast(Exact, super()._apply(lambda t: t.to(fn(t).device), recurse))

    def forward(self, numbers: Tensor) -> Tensor:
        """(F, inputs) float32 -> (F, outputs) float32."""
        with torch.autocast(numbers.device.type, enabled=False):
            said: Tensor = super().forward(numbers.float())
        return said


@heads.register("motion")
class MotionHead(VectorHead):
    """The next values of a vector stream, as `VectorHead`, by a network of all vectors, the task and the action, too.

    What the history adds is what numbers at one moment do not say, such as speeds.
    """

    reads_action = True

    def __init__(self, config: DynamicsConfig, stream: str) -> None:
        super().__init__(config, stream)
        if not config.action_dim:
            raise InvalidInput(f"the head motion:{stream} reads continuous actions, these are discrete; use proprio")
        chosen = options_of(config, "motion", stream, NumbersOptions)
        self.numbers, self.pushes = Numbers(config), Normalise(config.action_scale)
        self.network = Exact(self.numbers.size + config.action_dim, self.outputs, chosen.hidden)
        self.gate = nn.Parameter(torch.zeros(self.outputs), requires_grad=chosen.history)  # 0 at first

    def forward(self, features: Features) -> Tensor:
        """As `Head.forward`."""
        foreseen = self.foresee(features.inputs.streams, features.inputs.actions).detach()
        return foreseen + self.gate.float() * features.read

    def foresee(self, streams: Streams, actions: Tensor, numbers: Tensor | None = None) -> Tensor:
        """What follows from streams (F, ...) and actions (F, A) alone, (F, entries) normalised.

        `numbers` are those of the streams where they were computed already.
        """
        numbers = self.numbers(streams) if numbers is None else numbers
        row = torch.cat([numbers, self.pushes(actions).float()], dim=-1)
        return self.normalise(streams[self.stream].flatten(1).float()) + self.network(row)

    def own_parameters(self) -> list[nn.Parameter]:
        """Those that `foresee` depends on."""
        return list(self.network.parameters())


@heads.register("success")
class FlagHead(Head):
    """Whether something holds at the new frame, the logit (F,) of a token stream of booleans.

    "success" predicts the stream of that name, "success:held" the stream "held". It reads the vectors as they will be
    at the new frame, those that do not change as they are, and what the frame and the history show besides. Learn it
    from episodes that fail, too: what was only ever shown successes sees them everywhere.
    """

    reads: Reads = "both"

    def __init__(self, config: DynamicsConfig, stream: str) -> None:
        super().__init__(config, stream)
        spec = stream_spec(config, stream)
        if spec.kind != "token" or spec.dtype != "bool" or spec.shape:
            raise InvalidInput(f"the head success reads a single boolean, {stream!r} is {spec}; record one")
        chosen = options_of(config, "success", stream, NumbersOptions)
        self.numbers = Numbers(config)
        self.network = Exact(self.numbers.size, 1, chosen.hidden)
        self.gate = nn.Parameter(torch.zeros(1), requires_grad=chosen.history)  # of what frame and history add

    def forward(self, features: Features) -> Tensor:
        """As `Head.forward`."""
        judged = self.judge(features.inputs.streams | features.ahead).detach()
        return judged + self.gate.float() * features.read[:, 0]

    def judge(self, streams: Streams, numbers: Tensor | None = None) -> Tensor:
        """The logit (F,) by streams (F, ...) at the new frame alone; `numbers` as in `MotionHead.foresee`."""
        said: Tensor = self.network(self.numbers(streams) if numbers is None else numbers)[:, 0]
        return said

    def own_parameters(self) -> list[nn.Parameter]:
        """Those that `judge` depends on."""
        return list(self.network.parameters())

    def loss(self, out: Tensor, targets: Targets) -> Tensor:
        """Cross-entropy."""
        return F.binary_cross_entropy_with_logits(out, targets.streams[self.stream].float(), weight=targets.counted)

    def sample(self, out: Tensor) -> Streams:
        """Whether it is likelier than not."""
        return {self.stream: (out > 0).long()}


@heads.register("inverse")
class InverseHead(Head):
    """Which action led from one frame to the next (inverse dynamics), told from these two frames alone.

    (F, A) normalised continuous actions, or (F, actions) logits of discrete ones. A dream has no use for it: it labels
    videos whose actions nobody noted (Baker et al., VPT, 2022).
    """

    reads: Reads = "frame"

    def __init__(self, config: DynamicsConfig, stream: str) -> None:
        super().__init__(config, stream)
        self.outputs, self.first = config.action_dim or config.actions, config.action_start
        self.discrete, self.normalise = bool(config.actions), Normalise(config.action_scale)

    def forward(self, features: Features) -> Tensor:
        """As `Head.forward`."""
        return features.read

    def loss(self, out: Tensor, targets: Targets) -> Tensor:
        """Cross-entropy, or squared error in deviations of the data."""
        assert targets.actions is not None
        if self.discrete:
            error = F.cross_entropy(out, targets.actions - self.first, reduction="none")
        else:
            error = (out - self.normalise(targets.actions).float()).square().mean(1)
        return (targets.counted * error).mean()

    def label(self, out: Tensor) -> Tensor:
        """The likeliest actions, (F,) int64 or (F, A) float32, as the simulator takes them."""
        return out.argmax(1) + self.first if self.discrete else self.normalise.undo(out)


class Foreseen(nn.Module):
    """The condition that a frame is drawn under by what its streams will be, as heads of the history predict them.

    It begins at zero. Heads are not trained through it: they say what comes, not what is easy to draw.
    """

    def __init__(self, config: DynamicsConfig) -> None:
        super().__init__()
        self.streams, inputs = config.foreseen, 0
        for name in self.streams:
            spec = stream_spec(config, name)
            predicting = {f"motion:{name}", f"proprio:{name}", name} & {*config.output_heads}
            if spec.kind != "vector" or not predicting:
                raise InvalidInput(f"dynamics foreseen names {name!r}, which no head predicts; name vectors with one")
            if all(reads_of(config, head) != "history" for head in predicting):
                raise InvalidInput(
                    f"dynamics foreseen names {name!r}, which a head predicts that reads the new frame; give it the "
                    f"head motion:{name}"
                )
            inputs += 2 * math.prod(spec.shape)
        self.scaled = nn.ModuleDict({name: Normalise(config.scales.get(name, Scale())) for name in self.streams})
        self.network = nn.Sequential(nn.Linear(inputs, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, config.cond_dim))
        nn.init.zeros_(self.network[2].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.network[2].bias)  # type: ignore[arg-type]
        self.unforeseen = nn.Parameter(torch.zeros(config.cond_dim)) if config.action_tokens else None

    def forward(self, now: Streams, ahead: Streams, known: Tensor | None = None) -> Tensor:
        """(F, cond_dim) of the values (F, ...) at the last frame and at the new one.

        With action tokens, `known` (F,) bool says of which frames these were foreseen; None: of all.
        """
        scaled = [
            self.scaled[name](streams[name].flatten(1).float())
            for streams in (ahead, {name: ahead[name] - now[name] for name in self.streams})
            for name in self.streams
        ]
        row = torch.cat(scaled, dim=-1).detach()
        condition: Tensor = self.network(row.to(cast(Tensor, self.network[0].weight).dtype))
        if known is not None and self.unforeseen is not None:
            condition = condition + (~known)[:, None] * self.unforeseen
        return condition


def where_known(known: Tensor, ahead: Streams, now: Streams) -> Streams:
    """The values `ahead` (F, ...) of the frames that `known` (F,) bool names; of the others those of `now`."""
    return {
        name: torch.where(known.view(-1, *(1,) * (values.ndim - 1)), values, now[name]) if name in now else values
        for name, values in ahead.items()
    }


FREQUENCIES = (0.5, 1.0, 2.0, 4.0)  # of the waves that places are told apart by, half turns in 1.5 deviations


class Redrawn(nn.Module):
    """What each place of a frame is told of the numbers there, where frames are drawn anew: no change of the last one.

    Errors of a frame do not reach the next one but through the history's tokens, which show what numbers leave open. In
    place of the last frame stands the mean of the data, `background`. Waves of several lengths tell near numbers
    apart (Fourier features; Tancik et al., 2020).
    """

    def __init__(self, config: DynamicsConfig) -> None:
        super().__init__()
        c, cells = config, config.patch[0] * config.patch[1]
        self.config, self.numbers = config, Numbers(config)
        self.enter = nn.Linear(self.numbers.size * (1 + 2 * len(FREQUENCIES)), 2 * HIDDEN)
        self.place = nn.Linear(2 * HIDDEN, c.tokens * PLACE)
        self.leave = nn.Linear(PLACE, c.local * cells)
        self.embed = nn.Linear(c.local * cells, c.dim)  # of a token's patch of what this gives
        self.background = nn.Parameter(torch.zeros(c.channels, c.height, c.width))

    def forward(self, streams: Streams) -> Tensor:
        """The values (F, ...) of all streams at the new frame -> (F, local, h, w)."""
        numbers, (p, q) = self.numbers(streams), self.config.patch
        angles = numbers[..., None] * numbers.new_tensor(FREQUENCIES) * (math.pi / 1.5)
        row = torch.cat([numbers, angles.sin().flatten(1), angles.cos().flatten(1)], dim=-1).detach()
        told = F.silu(self.enter(row.to(self.enter.weight.dtype)))
        tokens = self.leave(F.silu(self.place(told)).unflatten(-1, (self.config.tokens, PLACE)))
        return rearrange(tokens, "f (h w) (c p q) -> f c (h p) (w q)", p=p, q=q, h=self.config.height // p)
