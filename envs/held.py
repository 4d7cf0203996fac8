"""Actions that are held for several steps of a world, which agents call frame skip: `HeldWorld`."""

from __future__ import annotations

from typing import Any

import numpy as np

from worldsim.errors import InvalidInput
from worldsim.rollout import step_stages
from worldsim.spec import Decoding, Stages, WorldProtocol
from worldsim.wrappers import HeldStep, WorldWrapper, held_spec


class HeldWorld(WorldWrapper):
    """A world each step of which is `hold` steps of another one with the same action.

    Rewards add up until a row ends; what it dreams after its end is not shown. Only the last frame is decoded, and
    with "all" every one of every step. Raises InvalidInput for a `hold` below 1.
    """

    def __init__(self, world: WorldProtocol, hold: int) -> None:
        if hold < 1:
            raise InvalidInput(f"hold is {hold}; give 1 or more steps that an action is held for")
        super().__init__(world)
        self.hold = hold
        self.spec = held_spec(world.spec, hold)

    def stages(self, state: Any, actions: np.ndarray, *, decode: Decoding = "all") -> Stages:
        """`step` in stages, those of every step of the other world."""
        held = HeldStep(len(actions))
        shown: list[np.ndarray] = []
        for i in range(self.hold):
            decoded: Decoding = decode if decode == "all" or i + 1 == self.hold else "none"
            if i:
                yield "holding"
            state, step = yield from step_stages(self.world, state, actions, decoded)
            held.add(step)
            if decoded == "all":
                shown += [*np.moveaxis(step.extras["between"], 1, 0)] if "between" in step.extras else []
                shown.append(step.frame)
        return state, held.outcome(shown)
