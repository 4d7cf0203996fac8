"""Policies of graded skill for MetaWorld: its scripted experts, and what can be wrong with them.

They see the state (`proprio`, `object`, `goal`, `task`), which a world may predict, so that they act in dreams, too.
`expert`, `other-expert`, `play` and `fumble` are what recordings are made with; the other families are kept out of
them, to judge a world by policies that it never met: `biased`, `delayed`, `weak` and `absent`, each with a number that
says how bad. `fumble` errs by as much as `biased` does, in other ways.
"""

from __future__ import annotations

from collections import deque
from typing import Any, ClassVar

import numpy as np

from worldsim.envs.sources.base import SourceSpec, TimeStep
from worldsim.errors import InvalidInput, MissingDependency

HAND_LOW, HAND_HIGH = np.array([-0.3, 0.4, 0.05]), np.array([0.3, 0.85, 0.3])  # where play moves the hand, m
WORST_NOISE = 1.5  # deviation of the noise on an expert's actions, at skill 0
BLUNDER = 0.15  # chance a step of an unskilled expert to go astray


class Expert:
    """The task's scripted expert with noise on its actions; `skill` from 0 to 1, or each episode with its own.

    Half of the episodes without a given skill are played by an expert without a fault.
    """

    needs: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, spec: SourceSpec, skill: float | None = None) -> None:
        names = spec.extras["task"].names if "task" in spec.extras else ()
        missing = [name for name in ("proprio", "object", "goal") if name not in spec.extras]
        if missing or not names or spec.actions.shape != (4,):
            raise InvalidInput(
                f"MetaWorld's experts move a hand by its task, proprio, object and goal, {spec.name!r} is not like "
                "that; give another policy"
            )
        if skill is not None and not 0 <= skill <= 1:
            raise ValueError("a skill lies from 0 to 1")
        self._given = skill
        self._experts = [_expert(name) for name in names]

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode with a skill of its own."""
        self._rng = rng
        drawn = 1.0 if rng.random() < 0.5 else rng.uniform()
        self._skill = drawn if self._given is None else self._given
        self._astray, self._way = 0, np.zeros(4)

    def act(self, row: TimeStep) -> np.ndarray:
        """The expert's action, less exact the less skilled; now and then some steps of another way."""
        fault = 1 - self._skill
        if self._astray == 0 and self._rng.random() < BLUNDER * fault:
            self._astray, self._way = int(self._rng.integers(2, 8)), self._rng.uniform(-1, 1, 4)
        noise = WORST_NOISE * fault**2 * self._rng.standard_normal(4)
        if self._astray:
            self._astray -= 1
            return _action(self._way + noise)
        return _action(self._wanted(row) + noise)

    def _wanted(self, row: TimeStep, **changed: np.ndarray) -> np.ndarray:
        """What the expert of the row's task does, of some other proprio, object or goal where these are given."""
        return self._of(int(row.extras["task"]), row, **changed)

    def _of(self, task: int, row: TimeStep, **changed: np.ndarray) -> np.ndarray:
        seen = {name: np.asarray(row.extras[name], np.float64) for name in ("proprio", "object", "goal")} | changed
        state = np.zeros(39)  # as MetaWorld's own observation, of which experts read no more than this
        state[:4], state[4:7], state[-3:] = seen["proprio"], seen["object"], seen["goal"]
        return np.asarray(self._experts[task].get_action(state), np.float64)


class OtherExpert(Expert):
    """The expert of another task: it moves with a purpose, and fails."""

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode with a task of its own."""
        super().reset(rng)
        self._shift = int(rng.integers(1, max(len(self._experts), 2)))

    def _wanted(self, row: TimeStep, **changed: np.ndarray) -> np.ndarray:
        return self._of((int(row.extras["task"]) + self._shift) % len(self._experts), row, **changed)


class Play(Expert):
    """Moves the hand about the object and the goal without a purpose, opening and closing the gripper."""

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode."""
        super().reset(rng)
        self._left, self._aim, self._grip, self._haste = 0, np.zeros(3), 0.0, 5.0

    def act(self, row: TimeStep) -> np.ndarray:
        """Go on to the place that it chose, or choose another one."""
        rng = self._rng
        if self._left == 0:
            self._left, self._haste = int(rng.integers(2, 9)), rng.uniform(2, 15)
            near = (row.extras["object"], row.extras["goal"], rng.uniform(HAND_LOW, HAND_HIGH))
            self._aim = near[int(rng.choice(3, p=(0.5, 0.25, 0.25)))] + 0.05 * rng.standard_normal(3)
            self._grip = rng.uniform(-1, 1)
        self._left -= 1
        push = self._haste * (self._aim - row.extras["proprio"][:3])
        return _action(np.append(push, self._grip) + 0.1 * rng.standard_normal(4))


class Fumble(Play):
    """Grasps again and again 1 to 4.5 cm beside the object, and takes what it holds to within 8 cm of the goal.

    It shows what almost works: the gripper that closes beside the puck, the hand that stops just outside of the goal.
    """

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode."""
        super().reset(rng)
        self._phase = len(FUMBLE) - 1  # the first attempt comes next

    def act(self, row: TimeStep) -> np.ndarray:
        """Go on with the attempt: above the object, down, close, away; then the next one."""
        if self._left == 0:
            self._begin_phase()
        self._left -= 1
        to, _, grip = FUMBLE[self._phase]
        aim = row.extras[to] + (self._beside if to == "object" else self._short)
        if self._phase == 0:
            aim = aim + np.array([0.0, 0.0, 0.12])
        elif self._phase == 1 and self._hasty:
            grip = 0.6
        push = self._haste * (aim - row.extras["proprio"][:3])
        return _action(np.append(push, grip) + 0.05 * self._rng.standard_normal(4))

    def _begin_phase(self) -> None:
        rng = self._rng
        self._phase = (self._phase + 1) % len(FUMBLE)
        if self._phase == 0:
            self._haste, self._hasty = rng.uniform(5, 12), rng.random() < 0.5  # closes on the way down
            self._beside = np.append(_around(rng, 0.01, 0.045), rng.uniform(0.0, 0.05))
            self._short = np.append(_around(rng, 0.0, 0.08), rng.uniform(-0.02, 0.04))
        low, high = FUMBLE[self._phase][1]
        self._left = int(rng.integers(low, high + 1))


FUMBLE: tuple[tuple[str, tuple[int, int], float], ...] = (  # where to, how many steps, the gripper
    ("object", (3, 5), -0.5), ("object", (2, 4), 0.0), ("object", (1, 3), 0.7), ("goal", (3, 8), 0.7),
)  # fmt: skip


def _around(rng: np.random.Generator, least: float, most: float) -> np.ndarray:
    """A place (2,) so far away, m."""
    angle, far = rng.uniform(0, 2 * np.pi), rng.uniform(least, most)
    return far * np.array([np.cos(angle), np.sin(angle)])


class Biased(Expert):
    """An expert that sees object and goal so many metres (default 0.05) aside of where they are."""

    def __init__(self, spec: SourceSpec, metres: float = 0.05) -> None:
        super().__init__(spec, 1.0)
        self._metres = metres

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode with a direction of its own."""
        super().reset(rng)
        angle = rng.uniform(0, 2 * np.pi)
        self._offset = self._metres * np.array([np.cos(angle), np.sin(angle), 0.0])

    def _wanted(self, row: TimeStep, **changed: np.ndarray) -> np.ndarray:
        return super()._wanted(row, object=row.extras["object"] + self._offset, goal=row.extras["goal"] + self._offset)


class Delayed(Expert):
    """An expert that acts by what it saw some steps (default 2) ago."""

    def __init__(self, spec: SourceSpec, steps: float = 2) -> None:
        super().__init__(spec, 1.0)
        if steps < 0 or steps != int(steps):
            raise ValueError("a delay is a whole number of steps")
        self._delay = int(steps)

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode, seeing its first state for as long."""
        super().reset(rng)
        self._seen: deque[TimeStep] = deque(maxlen=self._delay + 1)

    def act(self, row: TimeStep) -> np.ndarray:
        """What would have been right then."""
        self._seen.append(row)
        return super().act(self._seen[0])


class Weak(Expert):
    """An expert with so much (default 0.3) of its strength."""

    def __init__(self, spec: SourceSpec, strength: float = 0.3) -> None:
        super().__init__(spec, 1.0)
        self._strength = strength

    def _wanted(self, row: TimeStep, **changed: np.ndarray) -> np.ndarray:
        return self._strength * np.clip(super()._wanted(row, **changed), -1, 1)


class Absent(Expert):
    """An expert that looks away for a while with some chance a step (default 0.3), repeating what it did last."""

    def __init__(self, spec: SourceSpec, chance: float = 0.3) -> None:
        super().__init__(spec, 1.0)
        self._chance = chance

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode."""
        super().reset(rng)
        self._left, self._last = 0, np.zeros(4, np.float32)

    def act(self, row: TimeStep) -> np.ndarray:
        """The expert's action, or the last one again."""
        if self._left == 0 and self._rng.random() < self._chance:
            self._left = int(self._rng.integers(1, 6))
        if self._left:
            self._left -= 1
        else:
            self._last = super().act(row)
        return self._last


def _action(values: np.ndarray) -> np.ndarray:
    return np.clip(values, -1, 1).astype(np.float32)


def _expert(task: str) -> Any:
    """MetaWorld's scripted policy of a task ("reach")."""
    from worldsim.envs.sources.metaworld import INSTALL, _import

    try:
        _import()
        from metaworld.policies import ENV_POLICY_MAP
    except ImportError as error:
        raise MissingDependency(f"MetaWorld's experts cannot be imported ({error}); {INSTALL}") from error
    if f"{task}-v3" not in ENV_POLICY_MAP:
        raise InvalidInput(f"MetaWorld has no expert for task {task!r}; give a policy that needs none")
    made: Any = ENV_POLICY_MAP[f"{task}-v3"]
    return made()
