"""How sure a world is of its numbers: several small networks foresee the same, and how far they disagree is told.

They agree where they have learned and differ elsewhere, most of all because each of them adds to a network of its own
that is never trained (randomised prior functions; Osband et al., 2018). Nothing of a dream depends on them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.errors import InvalidInput, check_bounds
from worldsim.models.heads import Features, Targets, VectorHead, heads
from worldsim.models.registry import Normalise, Streams, options_of
from worldsim.models.state_heads import Numbers

if TYPE_CHECKING:
    from worldsim.models.dynamics import DynamicsConfig

UNCERTAINTY, UNFAMILIAR = "uncertainty", "unfamiliar"  # what a step's info has
FAMILIAR = 0.999  # share of recorded steps that count as familiar


@dataclass(frozen=True)
class SpreadOptions:
    """Options of `spread`."""

    members: int = 4
    hidden: int = 64  # width of each
    prior: float = 0.3  # scale of what is never trained, in deviations of a step's change

    def __post_init__(self) -> None:
        check_bounds("head", self, members=(2, 64), hidden=(1, 4096), prior=(0, 100))


class Members(nn.Module):
    """K networks of two layers side by side, which stay in float32."""

    def __init__(self, members: int, inputs: int, outputs: int, hidden: int) -> None:
        super().__init__()
        self.enter = nn.Parameter(nn.init.normal_(torch.empty(members, inputs, hidden), std=inputs**-0.5))
        self.shift = nn.Parameter(nn.init.uniform_(torch.empty(members, 1, hidden), -1, 1))
        self.leave = nn.Parameter(nn.init.normal_(torch.empty(members, hidden, outputs), std=hidden**-0.5))

    def _apply(self, fn: object, recurse: bool = True) -> Members:
        super()._apply(lambda t: t.to(fn(t).device), recurse)  # type: ignore[operator]
        return self

    def forward(self, rows: Tensor) -> Tensor:
        """(F, inputs) float32 -> (F, K, outputs)."""
        with torch.autocast(rows.device.type, enabled=False):
            hidden = torch.tanh(torch.einsum("fi,kih->kfh", rows.float(), self.enter) + self.shift)
            return torch.einsum("kfh,kho->fko", hidden, self.leave)


@heads.register("spread")
class SpreadHead(VectorHead):
    """The next values of a vector stream by K networks, (F, K, entries) normalised; learned as `motion` is.

    Every step's info has "uncertainty", how far they differ, in deviations of the data, and "unfamiliar", whether that
    is more than in all but one of a thousand recorded steps.
    """

    reads_action = True

    def __init__(self, config: DynamicsConfig, stream: str) -> None:
        super().__init__(config, stream)
        if not config.action_dim or config.streams[stream].kind != "vector":
            raise InvalidInput(f"the head spread:{stream} reads a vector and continuous actions; leave it out")
        c = options_of(config, "spread", stream, SpreadOptions)
        self.numbers, self.pushes, self.prior_scale = Numbers(config), Normalise(config.action_scale), c.prior
        size, outputs = self.numbers.size + config.action_dim, self.outputs
        self.outputs = 1  # of the shared layer, which it does not read
        self.learned = Members(c.members, size, outputs, c.hidden)
        self.prior = Members(c.members, size, outputs, c.hidden).requires_grad_(False)
        self.limit = nn.Parameter(torch.full((), 1e30), requires_grad=False)  # nothing is unfamiliar yet

    def forward(self, features: Features) -> Tensor:
        """As `Head.forward`."""
        return self.foresee(features.inputs.streams, features.inputs.actions).detach()

    def foresee(self, streams: Streams, actions: Tensor, numbers: Tensor | None = None) -> Tensor:
        """What each network says follows from streams (F, ...) and actions (F, A), (F, K, entries) normalised.

        `numbers` are those of the streams where they were computed already.
        """
        numbers = self.numbers(streams) if numbers is None else numbers
        row = torch.cat([numbers, self.pushes(actions).float()], dim=-1)
        now = self.normalise(streams[self.stream].flatten(1).float())[:, None]
        return now + self.learned(row) + self.prior_scale * self.prior(row)

    def own_parameters(self) -> list[nn.Parameter]:
        """Those that are learned."""
        return list(self.learned.parameters())

    @torch.no_grad()
    def fit_limit(self, streams: Streams, actions: Tensor) -> None:
        """Take these recorded steps, streams (F, ...) and actions (F, A), for what is familiar."""
        self.limit.copy_(self.spread(self.foresee(streams, actions)).quantile(FAMILIAR))

    @staticmethod
    def spread(out: Tensor) -> Tensor:
        """(F, K, entries) -> (F,), in deviations of the data."""
        return out.var(dim=1).mean(dim=1).sqrt()

    def loss(self, out: Tensor, targets: Targets) -> Tensor:
        """Squared error of all networks; it is shown, they learn from numbers alone."""
        wanted = self.normalise(targets.streams[self.stream].flatten(1).float())
        return (targets.counted * F.mse_loss(out, wanted[:, None].expand_as(out), reduction="none").mean((1, 2))).mean()

    def sample(self, out: Tensor) -> Streams:
        """What the info of a step has besides."""
        spread = self.spread(out)
        return {UNCERTAINTY: spread, UNFAMILIAR: spread > self.limit}
