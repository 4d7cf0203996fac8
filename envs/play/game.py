"""One game inside a world, and beside it perhaps the real one: episodes, steps, saved moments."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from worldsim.envs.play.feed import View
from worldsim.envs.play.real import RealGame
from worldsim.envs.worlds import render_world, reset_world, step_stages
from worldsim.spec import WorldProtocol
from worldsim.speculation import Speculation, SpeculationStats, Speculator
from worldsim.tree import clone


@dataclass(frozen=True)
class Moment:
    """A point of an episode, with all that is needed to go on from there bit for bit."""

    state: Any = field(repr=False)
    seed: int
    steps: int
    reward: float
    ending: str
    actions: tuple[np.ndarray, ...] | None  # played since the episode began; None: without the real game


class Game:
    """Plays a `WorldProtocol`, batch of one; where `real` is set, the same actions go to the real game.

    `speculate` guesses the player's next action and computes its step between the steps.
    """

    def __init__(self, world: WorldProtocol, *, speculate: Speculation | None = None) -> None:
        self._ahead = Speculator(partial(step_stages, world), world.spec.actions, 1, speculate)
        self.world = world
        self.spec = world.spec
        self.real: RealGame | None = None
        self.seed = 0
        self.steps = 0
        self.reward = 0.0
        self.ending = ""  # why the episode is over; empty while it is not
        self.ending_chance: float | None = None  # the model's own, for the last step, where the world tells it
        self.non_finite = False  # whether the last step held a value that is not finite
        self._state: Any = None
        self._actions: list[np.ndarray] | None = None

    def start(self, seed: int) -> View:
        """Begin the episode that `seed` names; beside a real game the dream starts from its pictures."""
        self._ahead.forget()
        start = None if self.real is None else self.real.start(seed)
        self._state = reset_world(self.world, seed, 0, start)
        self._actions = None if self.real is None else []
        self.seed, self.steps, self.reward, self.ending = seed, 0, 0.0, ""
        self.ending_chance, self.non_finite = None, False
        return self._view(self._look())

    def step(self, action: np.ndarray) -> list[View]:
        """Play one action, batch of one; the pictures it made, oldest first."""
        self._state, step = self._ahead.step(self._state, action)
        self.steps += 1
        self.reward += float(step.reward[0])
        self._read(step.extras)
        if step.terminated[0]:
            self.ending = "the episode ended"
        elif self.steps == self.spec.max_episode_steps:
            self.ending = "time is up"
        between = step.extras.get("between")
        dreamed = [*(between[0] if between is not None else ()), step.frame[0]]
        views: list[View] = [(picture,) for picture in dreamed]
        if self.real is not None:
            assert self._actions is not None
            self._actions.append(action)
            views = list(zip(self.real.step(action[0]), dreamed, strict=True))
        if not self.ending:
            self._ahead.expect(self._state)
        return views

    def save(self) -> Moment:
        """The present moment; playing on does not change it."""
        actions = None if self._actions is None else tuple(self._actions)
        return Moment(clone(self._state), self.seed, self.steps, self.reward, self.ending, actions)

    def restore(self, moment: Moment) -> View:
        """Go back to a moment; a real game that was there gets there by playing its actions again."""
        self._ahead.forget()
        self._state = clone(moment.state)
        self.seed, self.steps, self.reward, self.ending = (
            moment.seed,
            moment.steps,
            moment.reward,
            moment.ending,
        )
        self.ending_chance, self.non_finite = None, False
        self._actions = None
        if self.real is not None:
            if moment.actions is None:
                self.close_real()
            else:
                self.real.replay(moment.seed, moment.actions)
                self._actions = list(moment.actions)
        return self._view(self._look())

    @property
    def speculation_stats(self) -> SpeculationStats | None:
        """What came of the guesses so far; None without `speculate`."""
        return self._ahead.stats

    def close(self) -> None:
        """End the guessing and the real game, if there are any; may be called twice."""
        self._ahead.close()
        self.close_real()

    def _look(self) -> np.ndarray:
        """The current picture of the dream."""
        picture = render_world(self.world, self._state, 1)[0]
        if not self.ending:
            self._ahead.expect(self._state)
        return picture

    def _view(self, dreamed: np.ndarray) -> View:
        return (dreamed,) if self.real is None else (self.real.picture, dreamed)

    def close_real(self) -> None:
        """Stop the real game, if there is one."""
        if self.real is not None:
            self.real.close()
            self.real = None

    def _read(self, extras: dict[str, np.ndarray]) -> None:
        chance = extras.get("termination_probability")
        self.ending_chance = None if chance is None else float(chance[0])
        self.non_finite = bool(extras["non_finite"][0]) if "non_finite" in extras else False
