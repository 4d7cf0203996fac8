"""Data policies as Stable-Baselines3 sees policies: they play a dream and the real game alike, by the frames alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from worldsim.envs.sources.base import SourceSpec, TimeStep
from worldsim.errors import InvalidInput
from worldsim.policies.data import make_policy, policy_needs
from worldsim.policies.data_policy import DataPolicy
from worldsim.policies.observation import ObservationConfig
from worldsim.world import World

OBSERVATION = ObservationConfig(kind="pixels", gray=False, stack=1, hold=1)  # what data policies see


class Played:
    """One data policy in every row; each episode draws its randomness from torch's generator, as agents do."""

    def __init__(self, make: Callable[[], DataPolicy], first: int = 0) -> None:
        """`first` is the number of the first discrete action."""
        self._make, self._first = make, first
        self._rows: list[DataPolicy] = []

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """An action for every row of frames (N, H, W, 3) uint8."""
        frames = np.asarray(observation)
        begun = np.ones(len(frames), bool) if episode_start is None else episode_start.astype(bool)
        if len(self._rows) != len(frames):
            self._rows, begun = [self._make() for _ in frames], np.ones(len(frames), bool)
        for row in np.flatnonzero(begun):
            self._rows[row].reset(np.random.default_rng(int(torch.randint(2**62, ()))))
        actions = [policy.act(TimeStep(rgb=frame)) for policy, frame in zip(self._rows, frames, strict=True)]
        # Environments of agents count discrete actions from 0.
        return np.stack([np.asarray(action) for action in actions]) - self._first, None


def driver(world: World, name: str) -> Played:
    """A data policy by its name, as `worldsim record --policy` takes it, played in a world.

    Raises InvalidInput for one that needs more than the frame, which a dream does not have.
    """
    config = world.config
    needs = policy_needs(name, config.source.name)
    if needs:
        raise InvalidInput(
            f"policy {name!r} looks at {', '.join(sorted(needs))}, which a dream lacks; give another one"
        )
    size = config.tokenizer.height, config.tokenizer.width
    spec = SourceSpec(config.source.name, *size, config.actions, config.source.fps)
    make_policy(name, spec)  # raises where it cannot be made
    return Played(partial(make_policy, name, spec), config.actions.start)
