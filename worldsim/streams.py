"""Streams of actions to measure with: how a caller behaves, as an array."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from worldsim.errors import InvalidInput
from worldsim.spec import WorldSpec
from worldsim.traces import Trace

NAMED = ("repeat", "random", "held")
HELD_SECONDS, HELD_SPREAD = 0.4, 0.7  # median of how long a key is held, and the spread of its logarithm


@dataclass(frozen=True)
class Stream:
    """The actions of one caller."""

    name: str
    actions: np.ndarray  # (T,) int64 or (T, A) float32
    hold: int = 1  # steps of the world that each is held for


def named_stream(name: str, spec: WorldSpec, steps: int, seed: int = 0) -> Stream:
    """One of `NAMED`, `steps` long: always the same action, uniformly random ones, or keys held as a hand might.

    "held" is made up: each action lasts for a log-normal time, then another one follows at random.
    """
    rng = np.random.default_rng(seed)
    if name == "repeat":
        actions = np.repeat(spec.actions.draw(rng, 1), steps, axis=0)
    elif name == "random":
        actions = spec.actions.draw(rng, steps)
    else:
        seconds = rng.lognormal(np.log(HELD_SECONDS), HELD_SPREAD, steps)
        lengths = np.maximum(1, np.round(seconds * spec.steps_per_second).astype(int))
        actions = np.repeat(spec.actions.draw(rng, steps), lengths, axis=0)[:steps]
    return Stream(name, actions)


def trace_stream(path: Path, spec: WorldSpec, steps: int) -> Stream:
    """What was played through `worldsim play --trace`, from its beginning again where it is shorter than `steps`."""
    actions = Trace.load(path).actions(spec.actions)
    if not len(actions):
        raise InvalidInput(f"trace {str(path)!r} holds no actions; play for a while and give that trace")
    return Stream(path.stem, np.resize(actions, (steps, *actions.shape[1:])))
