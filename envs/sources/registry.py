"""What can be recorded, by name: sources, the data policies that they bring, and what suits each of them.

A package of yours registers its simulator when it is imported, as `worldsim.envs.sources.doom_scenarios` does here:

>>> from worldsim.envs.sources import register_source
>>> register_source("maze", "mazes.source:MazeSource", policies={"wall": "mazes.policies:FollowWall"}, mix=("wall",))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from worldsim.envs.sources.base import Source

MIX = "mix"  # the policy that draws one of those that suit a source for each episode
DEFAULT_MIX = ("random", "persistent")

Named = Callable[..., Any] | str  # something callable, or "module:name" of it, imported when it is needed


@dataclass(frozen=True)
class Package:
    """What has to be installed for a source; `worldsim info` reports it."""

    name: str  # of the distribution
    fix: str  # how to get it
    module: str  # what to import to see whether it loads


@dataclass(frozen=True)
class SourceEntry:
    """How a source is made, and which data policies suit it."""

    make: Callable[..., Source] | str
    package: Package | None = None
    options: dict[str, Any] = field(default_factory=dict)  # given to `make` besides those of the recording
    mix: tuple[str, ...] = DEFAULT_MIX  # what `mix` draws from for each episode; twice as often what stands twice
    plays: Named | None = None  # makes any data policy of (spec, name), where policies of other sources play in it


SOURCES: dict[str, SourceEntry] = {}
POLICIES: dict[str, Named] = {
    "random": "worldsim.policies.data_policy:UniformRandom",
    "persistent": "worldsim.policies.data_policy:PersistentRandom",
    "pauses": "worldsim.policies.data_policy:Pauses",
}


def register_source(
    name: str,
    make: Callable[..., Source] | str,
    *,
    package: Package | None = None,
    options: Mapping[str, Any] | None = None,
    policies: Mapping[str, Named] | None = None,
    mix: tuple[str, ...] = DEFAULT_MIX,
    plays: Named | None = None,
) -> None:
    """Make a simulator known as the source `name`, and the data policies that come with it.

    `make` gives a `Source` and is called with `options` and those of the recording; it needs `package`. `policies` are
    classes as `worldsim.policies.data_policy.DataPolicyClass`; `mix` says which of all suit this source. A source
    that is made of others gives `plays`, which makes the data policies that play in it.
    """
    SOURCES[name] = SourceEntry(make, package, dict(options or {}), mix, plays)
    for policy, where in (policies or {}).items():
        register_policy(policy, where)


def register_policy(name: str, policy: Named) -> None:
    """Make a data policy known by name, for every source that has the actions and streams that it needs."""
    POLICIES[name] = policy


def mix_of(source: str) -> tuple[str, ...]:
    """The data policies that suit a source; of one that registered none, random actions held or not."""
    return SOURCES[source].mix if source in SOURCES else DEFAULT_MIX


def player_of(source: str) -> Callable[..., Any] | None:
    """What makes every data policy of a source, of (spec, name), where it has such a thing."""
    plays = SOURCES[source].plays if source in SOURCES else None
    return None if plays is None else resolve(plays)


def resolve(named: Named) -> Callable[..., Any]:
    """The thing itself, imported where only its place is given."""
    if not isinstance(named, str):
        return named
    module, _, name = named.partition(":")
    found: Callable[..., Any] = getattr(import_module(module), name)
    return found
