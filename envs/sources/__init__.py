"""Real simulators as recording sources, made by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from worldsim.envs.sources.base import Arena, Row, Source, SourceSpec
from worldsim.envs.sources.doom_scenarios import SCENARIOS
from worldsim.errors import InvalidInput

__all__ = ["SOURCES", "Arena", "Row", "Source", "SourceSpec", "make_source"]

SOURCES = ("doom-take-cover", "doom-my-way-home", "gym:ID")


def make_source(name: str, **options: Any) -> Source:
    """Make a source by name: "doom-take-cover", "doom-my-way-home", or "gym:" and a gymnasium id.

    `options` go to `DoomSource` (frame_skip, between, depth, pose, sound, labels) or `GymSource` (height,
    width). Raises InvalidInput for an unknown name or option, MissingDependency if the simulator is not
    installed.
    """
    make: Callable[..., Source] | None = None
    if name.removeprefix("doom-").replace("-", "_") in SCENARIOS and name.startswith("doom-"):
        from worldsim.envs.sources.doom import DoomSource

        make = partial(DoomSource, name.removeprefix("doom-").replace("-", "_"))
    elif name.startswith("gym:"):
        from worldsim.envs.sources.gym_source import GymSource

        make = partial(GymSource, name.removeprefix("gym:"))
    if make is None:
        raise InvalidInput(f"unknown source {name!r}; the sources are {', '.join(SOURCES)}")
    known = set(inspect.signature(make).parameters)
    if not known.issuperset(options):
        extra = ", ".join(sorted(set(options) - known))
        raise InvalidInput(f"source {name!r} does not take {extra}; it takes {', '.join(sorted(known))}")
    return make(**options)
