"""Data policies for mazes: they know the map, and walk so that places are seen again later, from other sides."""

from __future__ import annotations

import numpy as np

from worldsim.envs.sources.base import TimeStep
from worldsim.envs.sources.mazes import BLOCK, Cell, Maze, make_maze
from worldsim.policies.data_policy import Action, NamedActions

REACHED = 26.0  # map units from a point at which the next one is headed for
PATIENCE = 40  # steps towards a point after which it is given up


class Tour(NamedActions):
    """Walks from one random block to another, with careless steps into walls; half of the time back where it came from.

    Never to the goal, which would end the episode.
    """

    names = ("NOOP", "FORWARD", "BACKWARD", "TURN_LEFT", "TURN_RIGHT")
    needs = frozenset({"pose", "maze"})
    back = 0.5  # chance to turn back at the end of a way
    look = 0.3  # chance to look round there
    length = (2, 12)  # blocks of a way

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode."""
        super().reset(rng)
        self._maze: Maze | None = None
        self._way: list[Cell] = []
        self._trail: list[Cell] = []  # blocks behind
        self._plan: list[str] = []  # the next actions, last one first
        self._point: np.ndarray | None = None
        self._careless = 0.015 if rng.random() < 0.6 else 0.05

    def act(self, row: TimeStep) -> Action:
        """The next action of the plan, or towards the next block of the way."""
        number, pose = int(row.extras["maze"]), row.extras["pose"]
        if self._maze is None or self._maze.number != number:
            self._maze = make_maze(number)
        if not self._plan and not self._way:
            self._set_out(self._maze, (int(pose[0] // BLOCK), int(pose[1] // BLOCK)))
        if self._plan:
            return self._index[self._plan.pop()]
        return self._index[self._towards(self._maze, pose)]

    def _set_out(self, maze: Maze, here: Cell) -> None:
        """Choose the next way, and perhaps look round before."""
        rng = self._rng
        if len(self._trail) > 2 and rng.random() < self.back:
            count = int(rng.integers(2, len(self._trail) + 1))
            self._way, self._trail = self._trail[-count:][::-1], self._trail[:-count]
        else:
            self._way = self._new_way(maze, here)
            self._trail.append(here)
        if rng.random() < self.look:
            self._plan = [self._side()] * int(rng.integers(10, 60))
        self._point = None

    def _new_way(self, maze: Maze, here: Cell) -> list[Cell]:
        cells = np.argwhere(maze.free)
        for _ in range(20):
            i, j = cells[int(self._rng.integers(len(cells)))]
            way = maze.path(here, (int(i), int(j)), self._rng, closed=maze.goal)[1:]
            if self.length[0] <= len(way) <= self.length[1]:
                return way
        return [here]

    def _side(self) -> str:
        return "TURN_LEFT" if self._rng.random() < 0.5 else "TURN_RIGHT"

    def _towards(self, maze: Maze, pose: np.ndarray) -> str:
        """One step towards the next block; a careless one now and then."""
        rng = self._rng
        if self._point is None:
            self._point, self._tried = maze.center(self._way[0]) + rng.uniform(-20, 20, 2), 0
        way, self._tried = self._point - pose[:2], self._tried + 1
        if np.hypot(*way) < REACHED or self._tried > PATIENCE:
            self._trail.append(self._way.pop(0))
            self._point = None
            if self._tried > PATIENCE:
                self._way = []
                self._plan = [self._side()] * int(rng.integers(0, 8)) + ["BACKWARD"] * int(rng.integers(1, 8))
            return "NOOP" if rng.random() < 0.1 else "FORWARD"
        if rng.random() < self._careless:
            names = rng.choice(self.names, p=(0.15, 0.4, 0.15, 0.15, 0.15))
            self._plan = [str(names)] * int(rng.integers(2, 14))
        bearing = (np.arctan2(way[1], way[0]) - pose[3] + np.pi) % (2 * np.pi) - np.pi  # positive: to the left
        if abs(bearing) > (0.4 if rng.random() < 0.6 else 0.1):
            return "TURN_LEFT" if bearing > 0 else "TURN_RIGHT"
        return "FORWARD"


class OutAndBack(Tour):
    """Looks round, walks off for some blocks, comes back the same way, looks round again."""

    back, look, length = 1.0, 0.7, (3, 14)

    def _set_out(self, maze: Maze, here: Cell) -> None:
        super()._set_out(maze, here)
        if len(self._trail) <= 1 and not self._plan:  # at home
            self._plan = [self._side()] * int(self._rng.integers(25, 60))


class Loops(Tour):
    """Walks round a loop, back to where it began by another way where there is one, and round again."""

    back, look, length = 0.0, 0.15, (5, 16)

    def _new_way(self, maze: Maze, here: Cell) -> list[Cell]:
        out = super()._new_way(maze, here)
        middle = out[len(out) // 2] if len(out) > 2 else None
        home = maze.path(out[-1], here, self._rng, closed=middle) or [*out[::-1][1:], here]
        return out + home[1:]


class LookRound(Tour):
    """Turns round and round, now this way, now that, and walks little."""

    back, look, length = 0.4, 0.95, (1, 4)


class Seek(Tour):
    """Walks about, and then to the goal."""

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode, with some ways before the goal."""
        super().reset(rng)
        self._ways = int(rng.integers(1, 8))

    def _set_out(self, maze: Maze, here: Cell) -> None:
        self._ways -= 1
        if self._ways > 0:
            super()._set_out(maze, here)
            return
        self._way, self._point = maze.path(here, maze.goal, self._rng)[1:] or [maze.goal], None
