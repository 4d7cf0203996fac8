"""Several simulators as one source, an episode each: robots with other arms in one training set.

Every part keeps a block of its own in the actions and in each vector, and what belongs to the others is 0 there: an
action's other entries do nothing, a part never sees the others' numbers, and no scale is shared by different arms. The
token `task` says which simulator, and which task of it, an episode is of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from worldsim.envs.sources.base import Source, SourceSpec, TimeStep
from worldsim.envs.sources.registry import register_source
from worldsim.errors import InvalidAction, InvalidInput, InvalidState
from worldsim.spec import ActionSpec, StreamSpec

TASK = "task"


class Joined:
    """Sources of one frame size and clock; each of `sources` is a table with "source", its name, and its options.

    Episodes are of each source equally often, drawn by their seeds, or of the task that `choose_task` names. The
    streams are all vectors, the tokens of booleans (False where a source has none of that name) and `task`, whose names
    are those of the sources' tasks, or of a source without tasks its own. Actions are continuous. Raises InvalidInput
    for sources that do not fit each other, or that name a Python module ("gym:MODULE:ID").
    """

    def __init__(self, *, sources: Sequence[Mapping[str, Any]], height: int = 64, width: int = 64) -> None:
        self.parts = _make(sources, height, width)
        specs = [part.spec for part in self.parts]
        self._names = [_tasks(spec) for spec in specs]
        self._firsts = np.cumsum([0, *map(len, self._names)])[:-1].tolist()  # of each part's tasks
        sizes = [len(spec.actions.low) for spec in specs]
        self._blocks = [slice(end - size, end) for end, size in zip(np.cumsum(sizes).tolist(), sizes, strict=True)]
        self._vectors = {name: [_size(spec, name) for spec in specs] for name in _named(specs, "vector")}
        self._flags = _named(specs, "token", "bool")
        self._fixed: tuple[int, str] | None = None
        self._part, self._row = 0, None  # type: tuple[int, TimeStep | None]
        limits = [spec.max_episode_steps for spec in specs]
        self.spec = SourceSpec(
            name="joined", height=height, width=width, actions=_actions(specs), fps=specs[0].fps, frame_skip=1,
            max_episode_steps=None if None in limits else max(limit for limit in limits if limit is not None),
            extras=self._extras(specs),
            parameters={"sources": [dict(one) for one in sources], "height": height, "width": width},
        )  # fmt: skip

    def _extras(self, specs: Sequence[SourceSpec]) -> dict[str, StreamSpec]:
        vectors = {name: StreamSpec("vector", (sum(sizes),), "float32") for name, sizes in self._vectors.items()}
        flags = {name: next(s.extras[name] for s in specs if name in s.extras) for name in self._flags}
        return {
            **vectors, **flags,
            TASK: StreamSpec("token", (), "int64", names=tuple(name for names in self._names for name in names)),
        }  # fmt: skip

    def choose_task(self, task: str | None) -> None:
        """Play this task from the next reset on; None: the one that the seed draws. Raises InvalidInput."""
        found = [(i, task) for i, names in enumerate(self._names) if task in names]
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
        return self._show(self.parts[self._part].step(whole[self._blocks[self._part]]))

    def _show(self, row: TimeStep) -> TimeStep:
        extras: dict[str, np.ndarray] = {}
        for name, sizes in self._vectors.items():
            values = [np.zeros(size, np.float32) for size in sizes]
            if name in row.extras:
                values[self._part] = np.asarray(row.extras[name], np.float32).reshape(-1)
            extras[name] = np.concatenate(values)
        for name in self._flags:
            extras[name] = np.bool_(row.extras.get(name, False))  # type: ignore[assignment]
        extras[TASK] = np.int64(self._firsts[self._part] + int(row.extras.get(TASK, 0)))  # type: ignore[assignment]
        self._row = replace(row, extras=extras)
        return self._row

    def render(self) -> np.ndarray:
        """The current frame (H, W, 3) uint8."""
        if self._row is None:
            raise InvalidState("there is no frame before the first reset; call reset(seed) first")
        return self._row.rgb.copy()

    def close(self) -> None:
        """Close all parts; may be called twice."""
        for part in self.parts:
            part.close()

    def inside(self, row: TimeStep, part: int) -> TimeStep:
        """A row of this source as the part itself gave it."""
        spec, extras = self.parts[part].spec, {}
        for name, one in spec.extras.items():
            if name in self._vectors:
                sizes = self._vectors[name]
                first = sum(sizes[:part])
                extras[name] = row.extras[name][first : first + sizes[part]].reshape(one.shape)
            elif name in self._flags:
                extras[name] = row.extras[name]
        if TASK in spec.extras:
            extras[TASK] = np.asarray(int(row.extras[TASK]) - self._firsts[part])
        return replace(row, extras=extras)

    def part_of(self, row: TimeStep) -> int:
        """Which part a row is of."""
        return int(np.searchsorted(self._firsts, int(row.extras[TASK]), side="right")) - 1

    def action_of(self, part: int, action: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A part's action among all entries; the others are 0, or the nearest to it that their bounds allow."""
        whole = np.clip(np.zeros(self.spec.actions.shape), self.spec.actions.low, self.spec.actions.high)
        whole[self._blocks[part]] = action
        return whole.astype(np.float32)


class EachItsOwn:
    """Every part is played by the data policies that suit it."""

    needs: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, spec: SourceSpec) -> None:
        from worldsim.policies.data import make_policy

        if spec.name != "joined" or "sources" not in spec.parameters:
            raise InvalidInput(f"this policy plays joined sources, {spec.name!r} is none; give another policy")
        self._joined = Joined(**spec.parameters)
        self._policies = [make_policy("mix", part.spec) for part in self._joined.parts]

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode."""
        self._rng = rng
        for policy in self._policies:
            policy.reset(rng)

    def act(self, row: TimeStep) -> np.ndarray:
        """What the policy of the row's part does."""
        part = self._joined.part_of(row)
        action = self._policies[part].act(self._joined.inside(row, part))
        return self._joined.action_of(part, np.asarray(action), self._rng)


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


register_source("joined", Joined, policies={"each-its-own": EachItsOwn}, mix=("each-its-own",))
