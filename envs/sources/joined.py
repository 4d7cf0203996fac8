"""Several simulators as one source, an episode each: robots with other arms in one training set.

Every part keeps a block of its own in the actions and in each vector, and what belongs to the others is 0 there: an
action's other entries do nothing, a part never sees the others' numbers, and no scale is shared by different arms. The
token `task` says which simulator, and which task of it, an episode is of.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from worldsim.envs.sources.base import Source, SourceSpec, TimeStep, frame_of
from worldsim.envs.sources.registry import MIX, register_source
from worldsim.errors import InvalidAction, InvalidInput, InvalidState
from worldsim.spec import ActionSpec, StreamSpec

TASK = "task"


@dataclass(frozen=True)
class Layout:
    """Whose numbers are where in the joined actions and streams."""

    specs: tuple[SourceSpec, ...]  # of the parts

    @cached_property
    def names(self) -> list[tuple[str, ...]]:
        """The tasks of each part."""
        return [_tasks(spec) for spec in self.specs]

    @cached_property
    def firsts(self) -> list[int]:
        """The token of each part's first task."""
        return np.cumsum([0, *map(len, self.names)])[:-1].tolist()

    @cached_property
    def blocks(self) -> list[slice]:
        """The entries of an action that each part takes."""
        sizes = [len(spec.actions.low) for spec in self.specs]
        return [slice(end - size, end) for end, size in zip(np.cumsum(sizes).tolist(), sizes, strict=True)]

    @cached_property
    def vectors(self) -> dict[str, list[int]]:
        """Of each vector, how many entries the parts have."""
        return {name: [_size(spec, name) for spec in self.specs] for name in _named(self.specs, "vector")}

    @cached_property
    def flags(self) -> list[str]:
        """The tokens of booleans."""
        return _named(self.specs, "token", "bool")

    def extras(self) -> dict[str, StreamSpec]:
        """The joined streams."""
        vectors = {name: StreamSpec("vector", (sum(sizes),), "float32") for name, sizes in self.vectors.items()}
        flags = {name: next(s.extras[name] for s in self.specs if name in s.extras) for name in self.flags}
        return {
            **vectors, **flags,
            TASK: StreamSpec("token", (), "int64", names=tuple(name for names in self.names for name in names)),
        }  # fmt: skip

    def joined(self, row: TimeStep, part: int) -> TimeStep:
        """A row of a part as all of them see it."""
        extras: dict[str, np.ndarray] = {}
        for name, sizes in self.vectors.items():
            values = [np.zeros(size, np.float32) for size in sizes]
            if name in row.extras:
                values[part] = np.asarray(row.extras[name], np.float32).reshape(-1)
            extras[name] = np.concatenate(values)
        for name in self.flags:
            extras[name] = np.bool_(row.extras.get(name, False))  # type: ignore[assignment]
        extras[TASK] = np.int64(self.firsts[part] + int(row.extras.get(TASK, 0)))  # type: ignore[assignment]
        return replace(row, extras=extras)

    def inside(self, row: TimeStep, part: int) -> TimeStep:
        """A joined row as the part itself gave it, with those streams that the row has."""
        spec, extras = self.specs[part], {}
        for name, one in spec.extras.items():
            if name in self.vectors and name in row.extras:
                sizes = self.vectors[name]
                first = sum(sizes[:part])
                extras[name] = row.extras[name][first : first + sizes[part]].reshape(one.shape)
            elif name in self.flags and name in row.extras:
                extras[name] = row.extras[name]
        if TASK in spec.extras:
            extras[TASK] = np.asarray(int(row.extras[TASK]) - self.firsts[part])
        return replace(row, extras=extras)

    def part_of(self, row: TimeStep) -> int:
        """Which part a row is of."""
        return int(np.searchsorted(self.firsts, int(row.extras[TASK]), side="right")) - 1

    def action_of(self, part: int, action: np.ndarray) -> np.ndarray:
        """A part's action among all entries; the others are 0, or the nearest to it that their bounds allow."""
        actions = _actions(self.specs)
        whole = np.clip(np.zeros(actions.shape), actions.low, actions.high)
        whole[self.blocks[part]] = action
        return whole.astype(np.float32)


class Joined:
    """Sources of one frame size and clock; each of `sources` is a table with "source", its name, and its options.

    Episodes are of each source equally often, drawn by their seeds, or of the task that `choose_task` names. The
    streams are all vectors, the tokens of booleans (False where a source has none of that name) and `task`, whose names
    are those of the sources' tasks, or of a source without tasks its own. Actions are continuous. Raises InvalidInput
    for sources that do not fit each other, or that name a Python module ("gym:MODULE:ID").
    """

    def __init__(self, *, sources: Sequence[Mapping[str, Any]], height: int = 64, width: int = 64) -> None:
        self.parts = _make(sources, height, width)
        specs = tuple(part.spec for part in self.parts)
        self.layout = Layout(specs)
        self._fixed: tuple[int, str] | None = None
        self._part, self._row = 0, None  # type: tuple[int, TimeStep | None]
        limits = [spec.max_episode_steps for spec in specs]
        self.spec = SourceSpec(
            name="joined", height=height, width=width, actions=_actions(specs), fps=specs[0].fps, frame_skip=1,
            max_episode_steps=None if None in limits else max(limit for limit in limits if limit is not None),
            extras=self.layout.extras(),
            parameters={"sources": [dict(one) for one in sources], "height": height, "width": width},
        )  # fmt: skip

    def choose_task(self, task: str | None) -> None:
        """Play this task from the next reset on; None: the one that the seed draws. Raises InvalidInput."""
        found = [(i, task) for i, names in enumerate(self.layout.names) if task in names]
        if task is not None and not found:
            raise InvalidInput(f"this source has no task {task!r}; it has {', '.join(self.spec.extras[TASK].names)}")
        self._fixed = None if task is None else (found[0][0], task)

    def reset(self, seed: int) -> TimeStep:
        """Start the episode that `seed` names."""
        which, inner = (int(n) for n in np.random.SeedSequence(seed).generate_state(2))
        self._part = which % len(self.parts) if self._fixed is None else self._fixed[0]
        part = self.parts[self._part]
        if TASK in part.spec.extras and hasattr(part, "choose_task"):
            part.choose_task(None if self._fixed is None else self._fixed[1])
        return self._show(part.reset(inner % 2**31))

    def step(self, action: int | np.ndarray) -> TimeStep:
        """Play one action (A,) of all parts; the entries of others are not looked at."""
        if self._row is None or self._row.done:
            raise InvalidState("the episode is over or has not begun; call reset(seed) first")
        whole = np.asarray(action)
        if whole.shape != self.spec.actions.shape:
            raise InvalidAction(f"action {action!r} is no {self.spec.actions.shape[0]} numbers; give one of all parts")
        return self._show(self.parts[self._part].step(whole[self.layout.blocks[self._part]]))

    def _show(self, row: TimeStep) -> TimeStep:
        self._row = self.layout.joined(row, self._part)
        return self._row

    def render(self) -> np.ndarray:
        """The current frame (H, W, 3) uint8."""
        return frame_of(self._row)

    def close(self) -> None:
        """Close all parts; may be called twice."""
        for part in self.parts:
            part.close()


class EachItsOwn:
    """A data policy that plays the parts which have its actions and streams; the others are played by what suits them.

    `name` is that of the policy, with its number if it takes one. Raises InvalidInput for one that no part can play.
    """

    def __init__(self, spec: SourceSpec, name: str = MIX) -> None:
        from worldsim.policies.data import make_policy

        self._layout = _layout_of(json.dumps(dict(spec.parameters)))
        self._policies, refused = [], []
        for part in self._layout.specs:
            try:
                self._policies.append(make_policy(name, part))
            except InvalidInput as error:
                refused.append(str(error))
                self._policies.append(make_policy(MIX, part))
        if len(refused) == len(self._policies):
            raise InvalidInput(f"no joined source can play it: {'; '.join(refused)}")

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode."""
        for policy in self._policies:
            policy.reset(rng)

    def act(self, row: TimeStep) -> np.ndarray:
        """What the policy of the row's part does."""
        part = self._layout.part_of(row)
        action = self._policies[part].act(self._layout.inside(row, part))
        return self._layout.action_of(part, np.asarray(action))


@lru_cache(maxsize=8)
def _layout_of(parameters: str) -> Layout:
    """That of a joined source with these parameters, as JSON: there is a policy for every episode of a batch."""
    source = Joined(**json.loads(parameters))
    source.close()
    return source.layout


def _make(sources: Sequence[Mapping[str, Any]], height: int, width: int) -> list[Source]:
    from worldsim.envs.sources import make_source

    tables = [dict(one) for one in sources]
    if len(tables) < 2 or not all(isinstance(one.get("source"), str) for one in tables):
        raise InvalidInput(f"sources are {tables}; give two or more tables, each with the name of a source")
    parts: list[Source] = []
    for one in tables:
        name = one.pop("source")
        if name == "joined" or (name.startswith("gym:") and name.count(":") > 1):
            raise InvalidInput(f"source {name!r} cannot be joined; give a registered one, or gym: and an id alone")
        parts.append(make_source(name, **{"height": height, "width": width, **one}))
    for part in parts:
        ours, first = part.spec, parts[0].spec
        if ours.actions.discrete or ours.actions.dtype != "float32":
            raise InvalidInput(f"source {ours.name!r} has no box of floats as actions; join robots alone")
        if abs(ours.fps - first.fps) > 1e-6 * first.fps:
            raise InvalidInput(
                f"source {ours.name!r} has {ours.fps:g} steps a second, {first.name!r} {first.fps:g}; choose "
                "frame_skip so that they are the same"
            )
    names = [name for part in parts for name in _tasks(part.spec)]
    if len(set(names)) < len(names):
        raise InvalidInput(f"the sources have tasks of the same name among {', '.join(names)}; choose others")
    return parts


def _tasks(spec: SourceSpec) -> tuple[str, ...]:
    return spec.extras[TASK].names if TASK in spec.extras else (spec.name.removeprefix("gym:"),)


def _size(spec: SourceSpec, name: str) -> int:
    return int(np.prod(spec.extras[name].shape)) if name in spec.extras else 0


def _named(specs: Sequence[SourceSpec], kind: str, dtype: str | None = None) -> list[str]:
    """The streams of a kind, sorted."""
    found = {
        name
        for spec in specs
        for name, one in spec.extras.items()
        if one.kind == kind and name != TASK and (dtype is None or one.dtype == dtype)
    }
    return sorted(found)


def _actions(specs: Sequence[SourceSpec]) -> ActionSpec:
    low, high = (tuple(value for spec in specs for value in getattr(spec.actions, side)) for side in ("low", "high"))
    return ActionSpec(low=low, high=high)


register_source("joined", Joined, plays=EachItsOwn)
