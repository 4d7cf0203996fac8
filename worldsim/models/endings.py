"""How likely an ending is, by what the ending head says: `EndingConfig`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worldsim.errors import InvalidInput, check_bounds


@dataclass(frozen=True)
class EndingConfig:
    """How a world takes its ending head's word; `worldsim train calibrate` finds it. As given here: literally.

    Some endings come out of nothing that the head sees, and some of those that it is sure of do not come.
    """

    shift: float = 0.0  # of the head's logit
    floor: float = 0.0  # chance of an ending in a step in which the head sees none
    ceiling: float = 1.0  # and in one in which it sees nothing else

    def __post_init__(self) -> None:
        if not 0 <= self.floor < self.ceiling <= 1:
            raise InvalidInput(
                f"endings have floor {self.floor} and ceiling {self.ceiling}; give chances from 0 to 1, the "
                "floor below the ceiling"
            )
        check_bounds("endings", self, shift=(-1000, 1000))

    def chance(self, logit: Tensor) -> Tensor:
        """Chances of an ending (F,) float32, from the head's logits (F,)."""
        return self.floor + (self.ceiling - self.floor) * torch.sigmoid(logit.float() + self.shift)
