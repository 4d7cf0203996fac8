"""Data policies for *take cover*: one crosses the arena, one also dodges and so meets more monsters."""

from __future__ import annotations

import numpy as np

from worldsim.envs.sources.base import SourceSpec, TimeStep
from worldsim.errors import InvalidInput
from worldsim.policies.data_policy import Action, NamedActions


class Sweep(NamedActions):
    """Runs to one side, stays for a while, runs to the other."""

    names = ("NOOP", "LEFT", "RIGHT")

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode, to either side."""
        super().reset(rng)
        self._side = int(rng.integers(2))
        self._run, self._stay = 0, 0

    def act(self, row: TimeStep) -> Action:
        """Run, stay, turn round."""
        if self._run == 0 and self._stay == 0:
            self._side = 1 - self._side
            self._run = int(self._rng.integers(8, 70))
            self._stay = int(self._rng.geometric(1 / 12))
        if self._run:
            self._run -= 1
            return self._index["RIGHT" if self._side else "LEFT"]
        self._stay -= 1
        return self._index["NOOP"]


class Dodge(NamedActions):
    """Runs to and fro and steps back from a near fireball ahead, with errors; survives longer.

    Fireballs fly to where the player was, so what runs on leaves them behind, and danger lies ahead and at
    turns.
    """

    names = ("NOOP", "LEFT", "RIGHT")
    needs = frozenset({"variables"})
    arena = 768.0  # width along POSITION_Y, in map units; running RIGHT lowers it

    def __init__(self, spec: SourceSpec) -> None:
        super().__init__(spec)
        if "POSITION_Y" not in spec.variable_names:
            raise InvalidInput(f"the dodge policy needs POSITION_Y, which {spec.name!r} lacks; use --policy mix")
        self._position = spec.variable_names.index("POSITION_Y")

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode with habits and a skill of its own."""
        super().reset(rng)
        self._error = float(rng.uniform(0.0, 0.06))  # chance to begin a blunder, per step
        self._turn = float(rng.uniform(0.0, 0.02))  # chance to turn round for no reason, per step
        self._margin = float(rng.uniform(30, 200))
        self._near = int(rng.integers(10, 16))
        self._right = bool(rng.integers(2))
        self._blunder, self._left = 0, 0

    def act(self, row: TimeStep) -> Action:
        """Blunder on, step back, or run on."""
        if self._left == 0 and self._rng.random() < self._error:
            self._left = int(self._rng.geometric(1 / 8))
            self._blunder = int(self._rng.integers(3))
        if self._left:
            self._left -= 1
            return self._index[self.names[self._blunder]]
        place = float(row.extras["variables"][self._position])
        if place > self.arena - self._margin:
            self._right = True
        elif place < self._margin:
            self._right = False
        elif self._rng.random() < self._turn:
            self._right = not self._right
        ahead = fireball_ahead(row.rgb, right=self._right, near=self._near)
        return self._index["RIGHT" if self._right != ahead else "LEFT"]


def fireball_ahead(frame: np.ndarray, *, right: bool, near: int) -> bool:
    """Whether a bright blob at least `near` pixels high is in the way of running to the right (or left)."""
    red, green, blue = (frame[..., i].astype(np.int16) for i in range(3))
    bright = (red > 190) & (green > 120) & (red - blue > 40)
    heights = bright.sum(axis=0)
    edges = np.flatnonzero(np.diff(heights > 0, prepend=False, append=False))
    for start, stop in zip(edges[::2], edges[1::2], strict=True):  # columns [start, stop) hold one blob
        offset = (start + stop - frame.shape[1]) / 2
        offset = offset if right else -offset
        if heights[start:stop].max() >= near and -2 < offset < 30 + (stop - start):
            return True
    return False
