"""Actions to measure with: as somebody played them, kept in a small file (`Trace`), or made up."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from worldsim.actions import check_actions
from worldsim.errors import InvalidInput
from worldsim.io.files import read_json, write_json
from worldsim.spec import ActionSpec, WorldSpec

FORMAT = 1
MADE_UP = ("repeat", "random", "held")
HELD_SECONDS, HELD_SPREAD = 0.4, 0.7  # median of how long a key is held, and the spread of its logarithm


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
        write_json(path, {**header, "pieces": pieces}, indent=None)

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


def load_stream(name: str, spec: WorldSpec, steps: int) -> np.ndarray:
    """One of `MADE_UP`, or the trace at a path, from its beginning again where it is shorter: (steps,) or (steps, A).

    "repeat" is always the same action, "random" uniformly random ones, "held" keys held as a hand might: each action
    lasts for a log-normal time, then another one follows at random.
    """
    rng = np.random.default_rng(0)
    if name == "repeat":
        return np.repeat(spec.actions.draw(rng, 1), steps, axis=0)
    if name == "random":
        return spec.actions.draw(rng, steps)
    if name == "held":
        seconds = rng.lognormal(np.log(HELD_SECONDS), HELD_SPREAD, steps)
        lengths = np.maximum(1, np.round(seconds * spec.steps_per_second).astype(int))
        return np.repeat(spec.actions.draw(rng, steps), lengths, axis=0)[:steps]
    actions = Trace.load(Path(name)).actions(spec.actions)
    if not len(actions):
        raise InvalidInput(f"trace {name!r} holds no actions; play for a while and give that trace")
    return np.resize(actions, (steps, *actions.shape[1:]))
