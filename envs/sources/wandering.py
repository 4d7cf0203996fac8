"""Data policies for rooms and corridors: head for open space, look round, go out and come back.

Places that are seen again from other sides are what a memory is trained on.
"""

from __future__ import annotations

import numpy as np

from worldsim.envs.sources.base import TimeStep
from worldsim.policies.data_policy import Action, NamedActions

TURN_STEP = np.deg2rad(7.0)  # Doom turns about so far in a step of two tics


class Wander(NamedActions):
    """Walks towards open space in the depth frame, and turns away from walls."""

    names = (
        *("FORWARD", "TURN_LEFT", "TURN_RIGHT", "STRAFE_LEFT", "STRAFE_RIGHT"),
        *("FORWARD_LEFT", "FORWARD_RIGHT"),
    )
    needs = frozenset({"depth"})
    near = 36.0  # map units to a wall ahead at which it turns
    clear = 160.0  # map units ahead at which it stops turning; less and less as it goes on turning
    patience = 0.97  # what is left of `clear` after each step of a turn

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode."""
        super().reset(rng)
        self._turning = ""  # side it turns to until the way is clear
        self._enough = 0.0  # map units ahead that end the turn
        self._plan: list[str] = []  # names of the next actions, last one first

    def act(self, row: TimeStep) -> Action:
        """Turn from a wall, or follow the plan, or make another one."""
        depth = row.extras["depth"]
        middle = depth.shape[0] // 2
        columns = depth[middle - 3 : middle + 3].min(axis=0)  # (W,)
        width = len(columns)
        ahead = float(columns[width // 3 : -(width // 3)].min())
        if not self._turning and ahead < self.near:
            self._turning = "LEFT" if columns[: width // 2].mean() > columns[width // 2 :].mean() else "RIGHT"
            self._enough = self.clear
            self._plan.clear()
        if self._turning:
            self._enough *= self.patience
            if ahead < max(self._enough, self.near):
                return self._index["TURN_" + self._turning]
            self._turning = ""
            self._plan = ["FORWARD"] * int(self._rng.integers(3, 15))
        if not self._plan:
            self._plan = self._new_plan(columns)
        return self._index[self._plan.pop()]

    def _new_plan(self, columns: np.ndarray) -> list[str]:
        """Turn towards a column drawn by how far one sees there, then walk; now and then sidestep instead."""
        if self._rng.random() < 0.08:
            return ["STRAFE_LEFT" if self._rng.random() < 0.5 else "STRAFE_RIGHT"] * int(self._rng.integers(3, 10))
        weights = columns.astype(np.float64) ** 2
        column = int(self._rng.choice(len(columns), p=weights / weights.sum()))
        offset = (column + 0.5) / len(columns) * 2 - 1
        turns = round(abs(float(np.arctan(offset))) / TURN_STEP)  # the frame is 90 degrees wide
        side = "LEFT" if offset < 0 else "RIGHT"
        kind = "FORWARD_" if self._rng.random() < 0.5 else "TURN_"
        return ["FORWARD"] * int(self._rng.geometric(1 / 12)) + [kind + side] * turns


class Spin(Wander):
    """Stands and turns round, walks on for a while, turns round again."""

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode with a turn."""
        super().reset(rng)
        self._spin_left, self._walk_left = 0, 0

    def act(self, row: TimeStep) -> Action:
        """Turn on, or walk on."""
        if self._spin_left == 0 and self._walk_left == 0:
            self._spin_left = int(self._rng.integers(20, 110))  # a full turn takes about 52 steps
            self._walk_left = int(self._rng.geometric(1 / 50))
            self._side = "TURN_LEFT" if self._rng.random() < 0.5 else "TURN_RIGHT"
        if self._spin_left:
            self._spin_left -= 1
            return self._index[self._side]
        self._walk_left -= 1
        return super().act(row)


class Return(Wander):
    """Wanders off for a while, then retraces its way to where it began, and goes off again."""

    needs = frozenset({"depth", "pose"})
    reach = 40.0  # map units from a point of the trail at which it counts as reached

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode."""
        super().reset(rng)
        self._set_out()

    def _set_out(self) -> None:
        self._trail: list[np.ndarray] = []  # (x, y) of the way out
        self._out_left = int(self._rng.integers(60, 250))
        self._stuck = 0

    def act(self, row: TimeStep) -> Action:
        """The next step out or back."""
        pose = row.extras["pose"]
        if self._out_left:
            self._out_left -= 1
            if not self._trail or np.linalg.norm(pose[:2] - self._trail[-1]) > self.reach / 2:
                self._trail.append(pose[:2].copy())
            self._last_distance = np.inf
            return super().act(row)
        return self._back(row, pose)

    def _back(self, row: TimeStep, pose: np.ndarray) -> Action:
        """Steer to the last point of the trail; when it comes no nearer for 60 steps, set out from here."""
        while self._trail and np.linalg.norm(pose[:2] - self._trail[-1]) < self.reach:
            self._trail.pop()
            self._last_distance = np.inf
        if not self._trail or self._stuck > 60:
            self._set_out()
            return super().act(row)
        way = self._trail[-1] - pose[:2]
        distance = float(np.linalg.norm(way))
        self._stuck = 0 if distance < self._last_distance - 1 else self._stuck + 1
        self._last_distance = min(distance, self._last_distance)
        bearing = (np.arctan2(way[1], way[0]) - pose[3] + np.pi) % (2 * np.pi) - np.pi  # positive: to the left
        side = "LEFT" if bearing > 0 else "RIGHT"
        if abs(bearing) > 0.6:
            return self._index["TURN_" + side]
        return self._index["FORWARD_" + side if abs(bearing) > TURN_STEP else "FORWARD"]
