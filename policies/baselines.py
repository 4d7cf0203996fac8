"""Policies that see nothing, to judge agents against; they have the `predict` of Stable-Baselines3's agents.

Chance comes from torch's generator, as an agent's does.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from worldsim.errors import InvalidInput
from worldsim.spec import ActionSpec

# In the `predict` of Stable-Baselines3's agents: what is seen, what a policy carries on, which rows begin an episode.
Observed = np.ndarray | dict[str, np.ndarray]
Carried = tuple[np.ndarray, ...] | None
Begun = np.ndarray | None


class HeldRandom:
    """Draws an action at random and holds it for a random time, `mean_steps` on average; 1: another at every step."""

    def __init__(self, space: gym.spaces.Space[Any], *, mean_steps: float = 1.0) -> None:
        self._space = space
        self._change = 1.0 / mean_steps
        self._held: np.ndarray | None = None

    def predict(
        self, observation: Observed, state: Carried = None, episode_start: Begun = None, deterministic: bool = False
    ) -> tuple[np.ndarray, Carried]:
        """An action for every row."""
        rows = len(observation)
        drawn = self._draw(rows)
        if self._held is None or len(self._held) != rows:
            self._held = drawn
        change = torch.rand(rows).numpy() < self._change
        if episode_start is not None:
            change |= episode_start.astype(bool)
        self._held = np.where(change.reshape(-1, *(1,) * (drawn.ndim - 1)), drawn, self._held)
        return self._held, None

    def _draw(self, rows: int) -> np.ndarray:
        if isinstance(self._space, gym.spaces.Discrete):
            return torch.randint(int(self._space.n), (rows,)).numpy()
        assert isinstance(self._space, gym.spaces.Box)
        low, high = self._space.low, self._space.high
        return low + (high - low) * torch.rand((rows, *self._space.shape)).numpy()


class Always:
    """The same discrete action for ever."""

    def __init__(self, action: int) -> None:
        self.action = action

    def predict(
        self, observation: Observed, state: Carried = None, episode_start: Begun = None, deterministic: bool = False
    ) -> tuple[np.ndarray, Carried]:
        """That action for every row."""
        return np.full(len(observation), self.action), None


class ToAndFro:
    """One discrete action for `steps` calls, then another for as many, and so on; an episode begins in mid-course."""

    def __init__(self, first: int, second: int, steps: int) -> None:
        if steps < 1:
            raise InvalidInput(f"an action is to be held for {steps} steps; give at least 1")
        self.first, self.second, self.steps = first, second, steps

    def predict(
        self, observation: Observed, state: Carried = None, episode_start: Begun = None, deterministic: bool = False
    ) -> tuple[np.ndarray, Carried]:
        """An action for every row; `state` counts the calls of its episode."""
        calls = np.zeros(len(observation), np.int64) if state is None else state[0]
        if episode_start is not None:
            calls = np.where(episode_start, 0, calls)
        back = (calls + self.steps // 2) // self.steps % 2 == 1
        return np.where(back, self.second, self.first), (calls + 1,)


def blind_policies(actions: ActionSpec, periods: Sequence[int]) -> dict[str, HeldRandom | Always | ToAndFro]:
    """Policies from bad to good for many games of few discrete actions: one for ever, two in turn, the baselines."""
    names = list(enumerate(actions.meanings))
    return {
        **{f"always {name}": Always(i) for i, name in names},
        **{
            f"{one} and {other}, {steps} steps each": ToAndFro(i, k, steps)
            for (i, one), (k, other) in combinations(names, 2)
            for steps in periods
        },
        **baselines(actions, hold=1),
    }


def baselines(actions: ActionSpec, *, hold: int) -> dict[str, HeldRandom | Always]:
    """By name: random, random but held for 10 steps of the world on average if that is longer than an action lasts
    anyway, and every action for ever."""
    space = actions.to_space()
    constant = {f"always {name}": Always(i) for i, name in enumerate(actions.meanings) if name != "NOOP"}
    return {
        "random": HeldRandom(space),
        **({"random, held": HeldRandom(space, mean_steps=10 / hold)} if hold < 10 else {}),
        **(constant if len(constant) <= 4 else {}),
    }
