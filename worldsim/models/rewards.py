"""What is paid for what the reward head says: `RewardConfig`."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from worldsim.errors import check_bounds


@dataclass(frozen=True)
class RewardConfig:
    """How a world takes its reward head's word; `worldsim train calibrate` finds it. As given here: literally.

    A head that has learned its recordings by heart is surer of rewards than it is right elsewhere.
    """

    slope: float = 1.0  # of what the head says
    shift: float = 0.0  # what is paid besides, in units of the reward

    def __post_init__(self) -> None:
        check_bounds("rewards", self, slope=(0, 1), shift=(-1e12, 1e12))

    def paid(self, said: Tensor) -> Tensor:
        """Rewards (F,), from those that the head says (F,), in units of the reward."""
        return self.shift + self.slope * said
