"""Actions as somebody played them, kept in a small file: `Trace`."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from worldsim.actions import check_actions
from worldsim.errors import InvalidInput
from worldsim.files import read_json
from worldsim.spec import ActionSpec
from worldsim.tree_io import write_atomically

FORMAT = 1


@dataclass
class Trace:
    """What was played in one world, piece by piece: a new one begins with every episode and every return to a moment.

    >>> trace = Trace(shipped_worlds()[0], 17.5)
    >>> trace.begin(seed=0)
    >>> trace.add(np.int64(1))
    >>> trace.save(Path("mine.json"))
    """

    world: str
    steps_per_second: float  # at which it was played, at the game's own speed
    pieces: list[tuple[int, list[Any]]] = field(default_factory=list)  # the seed of the episode, and its actions

    def begin(self, seed: int) -> None:
        """Begin a piece."""
        self.pieces.append((seed, []))

    def add(self, action: np.ndarray | np.integer[Any]) -> None:
        """One more action of the current piece, () int64 or (A,) float32."""
        self.pieces[-1][1].append(action.tolist())

    def actions(self, spec: ActionSpec) -> np.ndarray:
        """All pieces in a row, (T,) int64 or (T, A) float32; raises InvalidAction where they are not the world's."""
        played = [action for _, piece in self.pieces for action in piece]
        return check_actions(spec, played, len(played))

    def save(self, path: Path) -> None:
        """Write a .json file, whole or not at all; raises InvalidInput where that cannot be."""
        pieces = [{"seed": seed, "actions": actions} for seed, actions in self.pieces if actions]
        header = {"format": FORMAT, "world": self.world, "steps_per_second": self.steps_per_second}
        write_atomically(path, (json.dumps({**header, "pieces": pieces}) + "\n").encode())

    @classmethod
    def load(cls, path: Path) -> Trace:
        """Read what `save` wrote; raises InvalidInput."""
        try:
            found = read_json(path)
            if found["format"] != FORMAT:
                raise ValueError(f"format {found['format']}")
            pieces = [(int(piece["seed"]), piece["actions"]) for piece in found["pieces"]]
            trace = cls(str(found["world"]), float(found["steps_per_second"]), pieces)
            if not 0 < trace.steps_per_second < math.inf or not all(isinstance(acts, list) for _, acts in pieces):
                raise ValueError("its speed or its actions are none")
            return trace
        except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
            raise InvalidInput(
                f"trace {str(path)!r} cannot be read ({error}); give a file that `worldsim play --trace` wrote"
            ) from error
