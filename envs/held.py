"""Actions that are held for several steps of a world, which agents call frame skip: `HeldWorld`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from worldsim.errors import InvalidInput
from worldsim.rollout import finish, step_stages
from worldsim.spec import Decoding, LatentWorld, Stages, StreamWorld, WorldProtocol, WorldSpec, WorldStep
from worldsim.wrappers import HeldStep, held_spec


class HeldWorld:
    """A world each step of which is `hold` steps of another one with the same action.

    Rewards add up until a row ends; what it dreams after its end is not shown. Only the last frame is decoded, and
    with "all" every one of every step. Raises InvalidInput for a `hold` below 1.
    """

    def __init__(self, world: WorldProtocol, hold: int) -> None:
        if hold < 1:
            raise InvalidInput(f"hold is {hold}; give 1 or more steps that an action is held for")
        self.world = world
        self.hold = hold
        self.spec: WorldSpec = held_spec(world.spec, hold)

    def reset(self, seed: Sequence[int], **options: Any) -> Any:
        """As the world does."""
        return self.world.reset(seed, **options)

    def step(self, state: Any, actions: np.ndarray, *, decode: Decoding = "all") -> tuple[Any, WorldStep]:
        """Take the same actions `hold` times."""
        return finish(self.stages(state, actions, decode=decode))

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

    def render(self, state: Any) -> np.ndarray:
        """As the world does."""
        return self.world.render(state)

    def latents(self, state: Any) -> np.ndarray:
        """As the world does."""
        return cast(LatentWorld, self.world).latents(state)

    def streams(self, state: Any) -> dict[str, np.ndarray]:
        """As the world does."""
        return cast(StreamWorld, self.world).streams(state)
