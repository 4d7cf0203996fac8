"""Real simulators as recording sources, made by name."""

from __future__ import annotations

import inspect
import os
import sys
from functools import partial
from typing import Any

import gymnasium as gym

import worldsim.envs.sources.car_racing
import worldsim.envs.sources.doom_maze  # noqa: F401
import worldsim.envs.sources.doom_scenarios  # noqa: F401 (they register their sources)
import worldsim.envs.sources.joined  # noqa: F401
import worldsim.envs.sources.metaworld  # noqa: F401
from worldsim.envs.sources.base import Arena, Source, SourceSpec, TimeStep
from worldsim.envs.sources.registry import SOURCES, register_policy, register_source, resolve
from worldsim.errors import InvalidInput

__all__ = [
    "SOURCES",
    "Arena",
    "Source",
    "SourceSpec",
    "TimeStep",
    "find_modules_here",
    "make_source",
    "options_of",
    "register_policy",
    "register_source",
    "worldsim",
]


def make_source(source: str | gym.Env[Any, Any], **options: Any) -> Source:
    """Make a source: one of `SOURCES` by name, "gym:" and a gymnasium id, or of a gymnasium environment.

    `options` go to what makes it, as to `GymSource`: height, width, streams, and env_kwargs, which `gym.make` is given
    besides the id. An environment needs `render_mode="rgb_array"`. Raises InvalidInput for an unknown name or option,
    MissingDependency if the simulator is not installed.
    """
    make, known = _maker(source), options_of(source)
    if not known.issuperset(options):
        extra = ", ".join(sorted(set(options) - known))
        raise InvalidInput(f"source {str(source)!r} does not take {extra}; it takes {', '.join(sorted(known))}")
    return make(**options)


def options_of(source: str | gym.Env[Any, Any]) -> frozenset[str]:
    """The names of the options that a source takes; raises InvalidInput for an unknown one."""
    make = _maker(source)
    return frozenset(inspect.signature(make).parameters) - make.keywords.keys()


def _maker(source: str | gym.Env[Any, Any]) -> partial[Source]:
    if isinstance(source, str) and source in SOURCES:
        entry = SOURCES[source]
        return partial(resolve(entry.make), **entry.options)
    if isinstance(source, str) and not source.startswith("gym:"):
        raise InvalidInput(f"unknown source {source!r}; the sources are {', '.join(SOURCES)}, gym:ID")
    gym_source = resolve("worldsim.envs.sources.gym_source:GymSource")
    return partial(gym_source, source.removeprefix("gym:") if isinstance(source, str) else source)


def find_modules_here() -> None:
    """Let "gym:MODULE:ID" name a module in the current folder, as `python -m` does; installed ones come first."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
