"""The real simulator behind a world: `matching_source`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from worldsim.envs.sources import Source, make_source, options_of
from worldsim.errors import InvalidInput
from worldsim.spec import ActionSpec, WorldSpec


def matching_source(
    name: str,
    frame_skip: int,
    world: WorldSpec,
    *,
    between: bool = False,
    parameters: Mapping[str, Any] | None = None,
    trust_source: bool = False,
) -> Source:
    """The simulator that a world was recorded from, by its name, the ticks in a step and its other parameters.

    `between` asks for the frames inside a step too, where the simulator can give them. Raises MissingDependency if
    it is not installed, InvalidInput if its frames, actions or clock are not the world's.

    A world's files may name any module of Python with their game ("gym:MODULE:ID"); only with `trust_source` is it
    imported, which runs it. Raises InvalidInput otherwise.
    """
    if name.startswith("gym:") and name.count(":") > 1 and not trust_source:
        raise InvalidInput(
            f"the real game {name!r} of world {world.name!r} runs the Python module {name.split(':')[1]!r}, which the "
            "world's files name; if you trust them, add --trust-source (in Python: trust_source=True)"
        )
    options: dict[str, Any] = {"frame_skip": frame_skip, "between": between}
    if name.startswith("gym:"):
        given = parameters or {}
        options |= {"height": world.height, "width": world.width, "env_kwargs": given.get("env_kwargs")}
        options |= {"streams": bool(given.get("streams")), "frames": given.get("frames", "render")}
    else:
        known = options_of(name)
        kept = {"height": world.height, "width": world.width, **(parameters or {}), **options}
        options = {option: value for option, value in kept.items() if option in known or value is True}
    source = make_source(name, **options)
    found = source.spec
    for what, ours, theirs in (
        ("frames (height, width)", (found.height, found.width), (world.height, world.width)),
        ("steps a second", found.fps, world.steps_per_second),
        ("actions (discrete, first, low, high)", _actions(found.actions), _actions(world.actions)),
    ):
        if ours != theirs:
            source.close()
            raise InvalidInput(
                f"the real game {name!r} does not fit world {world.name!r}: {what} are {ours} and {theirs}; "
                "use a world recorded from it"
            )
    return source


def _actions(spec: ActionSpec) -> tuple[object, ...]:
    return spec.n, spec.start, spec.low, spec.high
