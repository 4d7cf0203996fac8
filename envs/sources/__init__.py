"""Real simulators as recording sources, made by name."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym

from worldsim.envs.sources.base import Arena, Row, Source, SourceSpec
from worldsim.envs.sources.doom_scenarios import SCENARIOS
from worldsim.errors import InvalidInput

__all__ = ["SOURCES", "Arena", "Row", "Source", "SourceSpec", "find_modules_here", "make_source"]

SOURCES = ("doom-take-cover", "doom-my-way-home", "gym:ID")


def make_source(source: str | gym.Env[Any, Any], **options: Any) -> Source:
    """Make a source: "doom-take-cover", "doom-my-way-home", "gym:" and a gymnasium id, or of a gymnasium environment.

    `options` go to `DoomSource` (frame_skip, between, depth, pose, sound, labels) or `GymSource` (height, width,
    streams, and env_kwargs: what `gym.make` is given besides the id). An environment needs `render_mode="rgb_array"`.
    Raises InvalidInput for an unknown name or option, MissingDependency if the simulator is not installed.
    """
    make: Callable[..., Source] | None = None
    scenario = source.removeprefix("doom-").replace("-", "_") if isinstance(source, str) else ""
    if scenario in SCENARIOS and scenario != source:
        from worldsim.envs.sources.doom import DoomSource

        make = partial(DoomSource, scenario)
    elif not isinstance(source, str) or source.startswith("gym:"):
        from worldsim.envs.sources.gym_source import GymSource

        make = partial(GymSource, source.removeprefix("gym:") if isinstance(source, str) else source)
    if make is None:
        raise InvalidInput(f"unknown source {source!r}; the sources are {', '.join(SOURCES)}")
    known = set(inspect.signature(make).parameters)
    if not known.issuperset(options):
        extra = ", ".join(sorted(set(options) - known))
        raise InvalidInput(f"source {str(source)!r} does not take {extra}; it takes {', '.join(sorted(known))}")
    return make(**options)


def find_modules_here() -> None:
    """Let "gym:MODULE:ID" name a module in the current folder, as `python -m` does; installed ones come first."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
