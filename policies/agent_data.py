"""A saved agent as a data policy, so that a world is trained on what its agents meet: `--policy agent:FILE`."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from stable_baselines3.common.vec_env.stacked_observations import StackedObservations

from worldsim.envs.sources.base import SourceSpec, TimeStep
from worldsim.errors import InvalidInput
from worldsim.policies.agent import load_agent
from worldsim.policies.data_policy import Action, UniformRandom
from worldsim.world import World

MOST_ERRORS = 0.06  # chance to begin a blunder, per step, of the episodes with most of them


class AgentPolicy:
    """Plays as the agent does, drawing its actions, with blunders: data should show what they would lead to, too."""

    needs: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, spec: SourceSpec, path: str) -> None:
        self._agent = load_agent(path)
        world = World.from_pretrained(self._agent.world)
        self._agent.check_world(world)
        if (spec.name, spec.fps) != (world.config.source.name, world.config.source.fps):
            raise InvalidInput(
                f"agent {path!r} plays {world.config.source.name!r} at {world.config.source.fps:g} steps a second, "
                f"not {spec.name!r} at {spec.fps:g}; record with another policy or frame skip"
            )
        observation = self._agent.observation
        self._see = observation.see(world)
        self._stack: StackedObservations[np.ndarray] = StackedObservations(
            1, observation.stack, observation.space(world.spec), observation.channels_order
        )
        self._random = UniformRandom(spec)
        self._first = spec.actions.start  # agents count actions from 0

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode with a skill of its own."""
        self._rng = rng
        self._random.reset(rng)
        self._error = float(rng.uniform(0.0, MOST_ERRORS))
        self._left = self._steps = 0

    def act(self, row: TimeStep) -> Action:
        """What the agent does, or a blunder that goes on for a while."""
        if self._steps % self._agent.observation.hold == 0:
            self._decided = self._decide(row)
        self._steps += 1
        if self._left == 0 and self._rng.random() < self._error:
            self._left = int(self._rng.geometric(1 / 8))
            self._wrong = self._random.act(row)
        if self._left:
            self._left -= 1
            return self._wrong
        return self._decided

    def _decide(self, row: TimeStep) -> Action:
        seen = self._see(row.rgb[None])
        if self._steps == 0:
            stacked = self._stack.reset(seen)
        else:
            stacked, _ = self._stack.update(seen, np.zeros(1, bool), [{}])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(self._rng.integers(2**63)))
            actions, _ = self._agent.predict(stacked, deterministic=False)
        return self._first + int(actions[0]) if actions.ndim == 1 else actions[0]
