"""A game as the window plays it: a `WorldEnv`, and beside it perhaps the real one, with the same actions."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from worldsim.envs.play.feed import View
from worldsim.envs.play.real import RealGame
from worldsim.envs.state import EnvState
from worldsim.envs.world_env import WorldEnv
from worldsim.spec import WorldProtocol
from worldsim.speculation import Speculation, SpeculationStats
from worldsim.world import World


@dataclass(frozen=True)
class Snapshot:
    """A point of an episode, with all that is needed to go on from there bit for bit."""

    state: EnvState = field(repr=False)
    reward: float
    ending: str
    actions: tuple[np.ndarray, ...] | None  # played since the episode began; None: without the real game


class Game:
    """Plays a `WorldEnv` from seed to seed; where `real` is set, the same actions go to the real game.

    `speculate` guesses the player's next action and computes its step between the steps.
    """

    def __init__(self, world: WorldProtocol, *, speculate: bool | Speculation | None = None) -> None:
        self._speculate = speculate
        self.env = self._made(world)
        self.spec = world.spec
        self.real: RealGame | None = None
        self.seed = 0
        self.steps = 0
        self.reward = 0.0
        self.ending = ""  # why the episode is over; empty while it is not
        self.ending_chance: float | None = None  # the model's own, for the last step, where the world tells it
        self.non_finite = False  # whether the last step held a value that is not finite
        self.sound: np.ndarray | None = None  # of the last step, (samples, channels) int16, where the world has sound
        self._actions: list[np.ndarray] | None = None

    def start(self, seed: int) -> View:
        """Begin the episode that `seed` names; beside a real game the dream starts from its frames."""
        start = None if self.real is None else self.real.start(seed)
        options = None if start is None else {"frames": start.frames, "actions": start.actions}
        frame, info = self.env.reset(seed=seed, options=options)
        self._actions = None if self.real is None else []
        self.reward, self.ending = 0.0, ""
        self._read(info)
        return self._view(frame)

    def step(self, action: np.ndarray) -> list[View]:
        """Play one action, batch of one; the frames it made, oldest first."""
        frame, reward, terminated, truncated, info = self.env.step(action[0])
        self.reward += reward
        self._read(info)
        if terminated:
            self.ending = "the episode ended"
        elif truncated:
            self.ending = "the model broke down" if self.non_finite else "time is up"
        dreamed = [*info.get("between", ()), frame]
        if self.real is None:
            return [(one,) for one in dreamed]
        assert self._actions is not None
        self._actions.append(action)
        return list(zip(self.real.step(action[0]), dreamed, strict=True))

    def save(self) -> Snapshot:
        """The present moment; playing on does not change it."""
        actions = None if self._actions is None else tuple(self._actions)
        return Snapshot(self.env.save_state(), self.reward, self.ending, actions)

    def restore(self, moment: Snapshot) -> View:
        """Go back to a moment; a real game that was there gets there by playing its actions again."""
        self.env.restore_state(moment.state)
        self.reward, self.ending = moment.reward, moment.ending
        self._read({"seed": moment.state.seed, "step": moment.state.step})
        self._actions = None
        if self.real is not None:
            if moment.actions is None:
                self.close_real()
            else:
                self.real.replay(moment.state.seed, moment.actions)
                self._actions = list(moment.actions)
        frame = self.env.render()
        assert frame is not None
        return self._view(frame)

    def toggle_memory(self) -> bool | None:
        """Read the world's memories no longer, or again; whether they are read now, None where it has none.

        They are written all the while, so that what is seen without them is remembered, too.
        """
        world = self.env.world
        if not isinstance(world, World) or world.dynamics.memories is None:
            return None
        sampling = replace(world.sampling, memory=not world.sampling.memory)
        moment, self.env = self.env.save_state(), self._made(world.with_sampling(sampling), closing=self.env)
        self.env.restore_state(moment)
        return sampling.memory

    def _made(self, world: WorldProtocol, closing: WorldEnv | None = None) -> WorldEnv:
        if closing is not None:
            closing.close()
        return WorldEnv(world, between=True, render_mode="rgb_array", speculate=self._speculate)

    @property
    def memory(self) -> bool | None:
        """Whether memories are read; None where the world has none."""
        world = self.env.world
        return world.sampling.memory if isinstance(world, World) and world.dynamics.memories is not None else None

    @property
    def speculation_stats(self) -> SpeculationStats | None:
        """What came of the guesses so far; None without `speculate`."""
        return self.env.speculation_stats

    def close(self) -> None:
        """End the guessing and the real game, if there are any; may be called twice."""
        self.env.close()
        self.close_real()

    def close_real(self) -> None:
        """Stop the real game, if there is one."""
        if self.real is not None:
            self.real.close()
            self.real = None

    def _view(self, dreamed: np.ndarray) -> View:
        return (dreamed,) if self.real is None else (self.real.frame, dreamed)

    def _read(self, info: dict[str, Any]) -> None:
        self.seed, self.steps = info["seed"], info["step"]
        self.ending_chance = info.get("termination_probability")
        self.non_finite = info.get("non_finite", False)
        self.sound = info.get("audio")
