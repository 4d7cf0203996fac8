"""A step in stages: going through them, and the stages of a world that has none."""

from __future__ import annotations

from typing import Any

import numpy as np

from worldsim.spec import Stages, WorldProtocol, WorldStep


def finish(stages: Stages) -> tuple[Any, WorldStep]:
    """Go through all stages; what the step gives."""
    while True:
        try:
            next(stages)
        except StopIteration as done:
            return done.value


def stages_of(world: WorldProtocol, state: Any, actions: np.ndarray, **options: Any) -> Stages:
    """The stages of a step of any world; without a method `stages` (`StagedWorld`) there is a single one."""
    staged = getattr(world, "stages", None)
    if staged is not None:
        return (yield from staged(state, actions, **options))
    return world.step(state, actions, **options)
