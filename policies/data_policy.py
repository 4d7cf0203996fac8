"""What a data policy is, and those that play any simulator: random actions, held or not.

They see the rows of a source (`worldsim.envs.sources.Row`) and act by the names of its actions. All
randomness of an episode comes from the generator given to `reset`.
"""

from __future__ import annotations

from typing import ClassVar, Protocol

import numpy as np

from worldsim.envs.sources.base import SourceSpec, TimeStep
from worldsim.errors import InvalidInput

Action = int | np.ndarray


class DataPolicy(Protocol):
    """Chooses the actions of a recording."""

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode whose randomness is `rng`."""
        ...

    def act(self, row: TimeStep) -> Action:
        """The next action, given the row before it."""
        ...


class DataPolicyClass(Protocol):
    """Makes a policy for a source, and says beforehand what the rows must carry."""

    @property
    def needs(self) -> frozenset[str]:
        """Optional streams that the policy looks at."""
        ...

    def __call__(self, spec: SourceSpec) -> DataPolicy:
        """The policy for this source."""
        ...


class UniformRandom:
    """Another random action at every step."""

    needs: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, spec: SourceSpec) -> None:
        self._actions = spec.actions

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode."""
        self._rng = rng

    def act(self, row: TimeStep) -> Action:
        """A uniform draw from the action space."""
        return self._actions.draw(self._rng)


class PersistentRandom(UniformRandom):
    """Holds a random action for a random time, 10 steps on average."""

    mean_steps = 10

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode."""
        super().reset(rng)
        self._left = 0

    def act(self, row: TimeStep) -> Action:
        """The held action, or a new one when its time is over."""
        if self._left == 0:
            self._left = int(self._rng.geometric(1 / self.mean_steps))
            self._held = super().act(row)
        self._left -= 1
        return self._held


class Pauses(PersistentRandom):
    """Plays as `PersistentRandom`, and between two spells of it does nothing; either lasts 40 steps on average.

    Who plays lets go of the keys, and a world has to stand still then for longer than it looks back.
    """

    spell_steps = 40

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode, with either of the two."""
        super().reset(rng)
        self._pausing = bool(rng.integers(2))
        self._spell = int(rng.geometric(1 / self.spell_steps))

    def act(self, row: TimeStep) -> Action:
        """The held action, or none."""
        if self._spell == 0:
            self._pausing = not self._pausing
            self._spell = int(self._rng.geometric(1 / self.spell_steps))
        self._spell -= 1
        return self._actions.rest if self._pausing else super().act(row)


class NamedActions:
    """Base of policies that know actions by name; raises InvalidInput for a source that lacks one of them."""

    names: tuple[str, ...] = ()
    needs: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, spec: SourceSpec) -> None:
        missing = [name for name in self.names if name not in spec.actions.meanings]
        if missing:
            raise InvalidInput(
                f"this policy needs the actions {', '.join(missing)}, which {spec.name!r} lacks; use --policy mix"
            )
        self._index = {name: i for i, name in enumerate(spec.actions.meanings, spec.actions.start)}

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode."""
        self._rng = rng
