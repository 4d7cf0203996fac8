"""The real simulator beside the dream: the same actions, the same number of frames a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from worldsim.envs.play.keys import ActionKeys
from worldsim.envs.sources import Source, TimeStep
from worldsim.envs.sources.matching import matching_source
from worldsim.envs.starts import Start
from worldsim.errors import InvalidInput
from worldsim.spec import WorldSpec

WARM_UP_STEPS = 8  # played before the dream takes over, so that it sees how things move


class RealGame:
    """A source played in step with a world."""

    def __init__(self, source: Source, world: WorldSpec) -> None:
        """Raises InvalidInput if the source does not fit the world."""
        found, wanted = source.spec, world
        if (found.height, found.width, found.fps) != (wanted.height, wanted.width, wanted.steps_per_second):
            source.close()
            raise InvalidInput(
                f"{found.name} gives {found.height}x{found.width} frames and {found.fps:g} steps a second, "
                f"{wanted.name} has {wanted.height}x{wanted.width} and {wanted.steps_per_second:g}; "
                "play without the real game"
            )
        self._source = source
        self._frames = world.frames_per_step
        self._idle = ActionKeys(world.actions).action(())[0]  # no key held
        self.frame: np.ndarray = np.zeros((world.height, world.width, 3), np.uint8)  # the current one
        self.ended = False

    def start(self, seed: int) -> Start:
        """Begin an episode; its first frames and the actions between them, for the dream to go on from."""
        rows = [self._source.reset(seed)]
        while len(rows) <= WARM_UP_STEPS and not rows[-1].done:
            rows.append(self._source.step(self._idle))
        self.frame, self.ended = rows[-1].rgb, rows[-1].done
        return Start(np.stack([row.rgb for row in rows]), np.stack([self._idle] * (len(rows) - 1)))

    def step(self, action: np.ndarray) -> list[np.ndarray]:
        """The frames that `action` makes, oldest first; after the end the last frame again."""
        if self.ended:
            return [self.frame] * self._frames
        row = self._source.step(action)
        frames = [*self._between(row), row.rgb]
        self.frame, self.ended = row.rgb, row.done
        return frames

    def replay(self, seed: int, actions: Sequence[np.ndarray]) -> None:
        """Play an episode again up to a moment: the same seed and actions give the same rows."""
        self.start(seed)
        for action in actions:
            self.step(action[0])

    def close(self) -> None:
        """Stop the simulator."""
        self._source.close()

    def _between(self, row: TimeStep) -> list[np.ndarray]:
        """The frames before the step's last; a source that has none shows its last frame longer."""
        if "between" in row.extras:
            return list(row.extras["between"])
        return [self.frame] * (self._frames - 1)


def open_real(
    source: str,
    frame_skip: int,
    world: WorldSpec,
    parameters: Mapping[str, Any] | None = None,
    *,
    trust_source: bool = False,
) -> RealGame:
    """The simulator that a world was recorded from, by its name, the ticks in a step and its other parameters.

    Raises MissingDependency if it is not installed, InvalidInput if it does not fit the world, or is in a module of
    Python that is imported only with `trust_source`.
    """
    between = world.frames_per_step > 1
    matching = matching_source(
        source, frame_skip, world, between=between, parameters=parameters, trust_source=trust_source
    )
    return RealGame(matching, world)
