"""Dreams to train in that tell how near an ending was, instead of ending by the throw of a die: `SoftEndings`."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from worldsim.errors import InvalidInput
from worldsim.rollout import step_stages
from worldsim.spec import Decoding, Stages, WorldProtocol
from worldsim.wrappers import WorldWrapper


class SoftEndings(WorldWrapper):
    """A world that never ends, and takes `cost` times the chance of an ending out of the reward of each step.

    An agent then learns from every close call, and not from the few of them that were drawn to be endings. Dreamer
    (Hafner et al., 2020) counts with the predicted chance to go on for the same reason. It goes on after what would
    have ended it, so it suits games in which not every such thing does. Raises InvalidInput for a `cost` below 0, and
    in `step` for a world that does not say how likely endings are.
    """

    def __init__(self, world: WorldProtocol, cost: float) -> None:
        if not 0 <= cost < math.inf:
            raise InvalidInput(f"the cost of an ending is {cost}; give 0 or more, in units of the reward")
        super().__init__(world)
        self.cost = cost

    def stages(self, state: Any, actions: np.ndarray, *, decode: Decoding = "all") -> Stages:
        """`step` in stages, those of the other world."""
        state, step = yield from step_stages(self.world, state, actions, decode)
        chance = step.extras.get("termination_probability")
        if chance is None:
            raise InvalidInput(
                f"world {self.spec.name!r} does not say how likely endings are; train with them as drawn"
            )
        reward = (step.reward - self.cost * chance).astype(np.float32)
        return state, dataclasses.replace(step, reward=reward, terminated=np.zeros_like(step.terminated))

    def rewind(self, state: Any) -> None:
        """Nothing is left to do: each step of the other world begins with it."""
