"""Worlds around worlds: `WorldWrapper`, and what the steps of a held action come to."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from worldsim.rollout import finish, stages_of
from worldsim.spec import Decoding, LatentWorld, Stages, StreamWorld, WorldProtocol, WorldSpec, WorldStep


class WorldWrapper:
    """A world that does what another one does; subclasses change its `stages`, and so its steps, or its `spec`."""

    def __init__(self, world: WorldProtocol) -> None:
        self.world = world
        self.spec: WorldSpec = world.spec

    def reset(self, seed: Sequence[int], **options: Any) -> Any:
        """As the world does."""
        return self.world.reset(seed, **options)

    def step(self, state: Any, actions: np.ndarray, *, decode: Decoding = "all") -> tuple[Any, WorldStep]:
        """All of `stages`."""
        return finish(self.stages(state, actions, decode=decode))

    def stages(self, state: Any, actions: np.ndarray, *, decode: Decoding = "all") -> Stages:
        """A step in stages, those of the world."""
        options: dict[str, Any] = {} if self.spec.latent_shape is None else {"decode": decode}
        return (yield from stages_of(self.world, state, actions, **options))

    def render(self, state: Any) -> np.ndarray:
        """As the world does."""
        return self.world.render(state)

    def latents(self, state: Any) -> np.ndarray:
        """As the world does."""
        return cast(LatentWorld, self.world).latents(state)

    def streams(self, state: Any) -> dict[str, np.ndarray]:
        """As the world does."""
        return cast(StreamWorld, self.world).streams(state)


def held_spec(spec: WorldSpec, hold: int) -> WorldSpec:
    """The spec of a world each step of which is `hold` steps of another one."""
    limit = spec.max_episode_steps
    return dataclasses.replace(
        spec,
        steps_per_second=spec.steps_per_second / hold,
        frames_per_step=spec.frames_per_step * hold,
        max_episode_steps=None if limit is None else held_steps(limit, hold),
    )


def held_steps(steps: int, hold: int) -> int:
    """How many held actions it takes to get through so many steps."""
    return -(-steps // hold)


class HeldStep:
    """Adds up the steps of one held action in a batch of `rows` worlds.

    Rewards, chances of an ending and broken numbers of a row count until the row ends.
    """

    def __init__(self, rows: int) -> None:
        self._reward, self._alive = np.zeros(rows, np.float32), np.ones(rows, np.bool_)
        self._broken, self._survival = np.zeros(rows, np.bool_), np.ones(rows, np.float32)

    def add(self, step: WorldStep) -> None:
        """One more step."""
        alive = self._alive
        self._reward = np.where(alive, self._reward + step.reward, self._reward)
        self._broken |= alive & np.asarray(step.extras.get("non_finite", False))
        chance = step.extras.get("termination_probability", np.float32(0))
        self._survival *= np.where(alive, 1 - chance, 1)
        self._alive = alive & ~step.terminated
        self._last = step

    def outcome(self, shown: list[np.ndarray]) -> WorldStep:
        """All of them as one step; `shown` are the frames (B, H, W, 3) of all steps that were decoded, oldest first:
        the last one is its frame. With none the frame is the last step's."""
        extras = {**self._last.extras, "non_finite": self._broken}
        if "termination_probability" in extras:
            extras["termination_probability"] = 1 - self._survival
        if len(shown) > 1:
            extras["between"] = np.stack(shown[:-1], axis=1)
        frame = shown[-1] if shown else self._last.frame
        return WorldStep(frame, self._reward, ~self._alive, extras)
