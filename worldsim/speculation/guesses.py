"""Guessed steps as a tree: the root is where the world stands, a child is what one action would lead to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from worldsim.spec import WorldStep


@dataclass(frozen=True)
class Candidate:
    """Actions of the whole batch that may come next, and how likely a guesser holds them to be."""

    actions: np.ndarray  # (B,) int64 or (B, A) float32, as a world's step takes them
    probability: float

    @property
    def key(self) -> bytes:
        """What tells actions apart: their bytes, since only the very same ones give the very same step."""
        return self.actions.tobytes()


@dataclass(eq=False)
class Guess:
    """A state that nobody writes to before it is asked for, and what else its step gives; or the root."""

    state: Any
    step: WorldStep | None = None  # None at a root that no guess led to
    observation: Any = None  # for guessers that look at it
    actions: np.ndarray | None = None  # that led here
    depth: int = 0  # how many steps ahead it was when it was computed
    seconds: float = 0.0  # that it took
    candidates: list[Candidate] | None = None  # what may come next, likeliest first; None: not asked yet
    children: dict[bytes, Guess] = field(default_factory=dict)

    def below(self) -> Iterator[Guess]:
        """All guesses that follow on this one."""
        for child in self.children.values():
            yield child
            yield from child.below()


@dataclass(eq=False)
class Job:
    """What is to be computed next: a candidate's step from a node's state or, without one, a node's candidates."""

    node: Guess
    path: tuple[np.ndarray, ...]  # the actions that lead from the root to the node
    candidate: Candidate | None = None
    stop: bool = False  # set when nobody wants it any more

    @property
    def depth(self) -> int:
        """How many steps ahead the guess is."""
        return len(self.path) + 1
