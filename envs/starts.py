"""What `reset` may be given: seeds, and frames to start from; checked before anything changes."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np

from worldsim.actions import check_actions
from worldsim.errors import InvalidInput
from worldsim.sampling.noise import SEED_LIMIT, fold_seed
from worldsim.spec import WorldSpec
from worldsim.streams import StreamSpec

OF_A_START = ("frames", "actions", "age", "streams")  # options of `reset`
_ignored: set[str] = set()  # options that this process was told about: frameworks pass theirs at every reset


@dataclass(frozen=True)
class Start:
    """Frames to begin an episode from, oldest first, and the actions taken between them."""

    frames: np.ndarray  # (T, H, W, 3) uint8, T >= 1
    actions: np.ndarray  # (T - 1,) int64 or (T - 1, A) float32
    age: int = 0  # of the first frame: steps since the beginning of its episode
    streams: dict[str, np.ndarray] = field(default_factory=dict)  # (T, ...), what other sensors gave with the frames


def check_seed(seed: Any) -> int | None:
    """None, or the seed in [0, 2**63) that stands for an integer of 0 or more; raises InvalidInput."""
    if seed is None:
        return None
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or int(seed) < 0:
        raise InvalidInput(f"seed {seed!r} is no integer of 0 or more; pass one, or None")
    return fold_seed(int(seed))


def check_seeds(seed: Any, rows: int) -> list[int | None]:
    """One seed a row: an integer expands to seed, seed + 1, …; None leaves all rows unseeded."""
    if isinstance(seed, list | tuple | np.ndarray):
        if len(seed) != rows:
            raise InvalidInput(f"{len(seed)} seeds for {rows} environments; pass one for each")
        return [check_seed(one) for one in seed]
    if check_seed(seed) is None:
        return [None] * rows
    return [check_seed(int(seed) + row) for row in range(rows)]


def check_options(options: Any, known: tuple[str, ...] = OF_A_START) -> dict[str, Any]:
    """Those of the options that are known; warns of each other one once. Raises InvalidInput for what is no mapping.

    Frameworks pass options of their own to every environment, which no other environment minds.
    """
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise InvalidInput(f"options is a {type(options).__name__}; pass a dict")
    for key in map(str, options):
        if key not in known and key not in _ignored:
            near = difflib.get_close_matches(key, known, n=1)
            names = ", ".join(map(repr, known)) or "none"
            hint = f"did you mean {near[0]!r}?" if near else f"this environment knows {names}"
            gym.logger.warn("reset option %r is ignored; %s", key, hint)
            _ignored.add(key)
    return {key: options[key] for key in known if key in options}


def check_start(spec: WorldSpec, given: Mapping[str, Any]) -> Start | None:
    """Of options: frames (T, H, W, 3) uint8, the T - 1 actions between them, their age and streams; None for none."""
    frames, actions, age, streams = (given.get(name) for name in OF_A_START)
    if frames is None:
        for name in OF_A_START[1:]:
            if given.get(name) is not None:
                raise InvalidInput(f"options[{name!r}] came without options['frames']; pass the frames too")
        return None
    array = np.asarray(frames)
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[1:] != (spec.height, spec.width, 3):
        want = f"uint8 (T, {spec.height}, {spec.width}, 3)"
        raise InvalidInput(f"options['frames'] is {array.dtype} {array.shape}; pass {want}, oldest first")
    if len(array) == 0:
        raise InvalidInput("options['frames'] is empty; pass at least one frame")
    if actions is None and len(array) > 1:
        between = len(array) - 1
        raise InvalidInput(f"options['frames'] has {between + 1} frames; pass the {between} actions between them")
    if actions is None:
        actions = np.zeros((0,) if spec.actions.discrete else (0, len(spec.actions.low)))
    taken = check_actions(spec.actions, actions, len(array) - 1)
    return Start(frames, taken, _check_age(spec, age), _check_streams(spec, streams, len(array)))


def _check_age(spec: WorldSpec, age: Any) -> int:
    """Steps since the beginning of the episode, 0 where nothing is said of it."""
    if age is None:
        return 0
    if not spec.ages:
        raise InvalidInput(f"world {spec.name!r} is not told how late it is; leave options['age'] out")
    if isinstance(age, bool) or not isinstance(age, int | np.integer) or not 0 <= int(age) < SEED_LIMIT:
        raise InvalidInput(f"options['age'] is {age!r}; pass steps since the beginning of the episode, 0 or more")
    return int(age)


def _check_streams(spec: WorldSpec, streams: Any, count: int) -> dict[str, np.ndarray]:
    """Values (count, ...) of some of the world's sensors with the frames, in the types of their `StreamSpec`s."""
    if streams is None:
        return {}
    if not isinstance(streams, Mapping):
        raise InvalidInput(f"options['streams'] is a {type(streams).__name__}; pass a dict of arrays by their names")
    for name in streams:
        if name not in spec.streams:
            known = ", ".join(map(repr, spec.streams)) or "none"
            raise InvalidInput(f"options['streams'] has {name!r}; the streams of world {spec.name!r} are {known}")
    return {name: _check_stream(name, spec.streams[name], values, count) for name, values in streams.items()}


def _check_stream(name: str, spec: StreamSpec, values: Any, count: int) -> np.ndarray:
    where, shape = f"options['streams'][{name!r}]", (count, *spec.shape)
    try:
        given = np.asarray(values)
        sound = given.shape == shape and bool(np.isfinite(given).all())
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{where} is no array of numbers ({error}); pass one row a frame") from error
    if not sound:
        raise InvalidInput(f"{where} is {given.dtype} {given.shape}; pass finite numbers {shape}, one row a frame")
    low, high = (0, len(spec.names) - 1) if spec.kind == "token" and spec.names else spec.bounds()
    taken = given.astype(spec.dtype)
    whole = taken.dtype.kind == "f" or bool((taken == given).all())
    if not whole or not ((taken >= low) & (taken <= high)).all():
        raise InvalidInput(
            f"{where} has values that are no {spec.dtype} within the stream's bounds; pass some that are"
        )
    return taken


def check_starts(spec: WorldSpec, given: Mapping[str, Any], rows: int) -> list[Start | None]:
    """One start a row: frames (T, H, W, 3) serve every row, (rows, T, H, W, 3) and all else give each its own."""
    if np.ndim(given.get("frames", ())) != 5:
        return [check_start(spec, given)] * rows
    own = {name: given[name] for name in OF_A_START if given.get(name) is not None}
    streams = own.pop("streams", {})
    split = streams if isinstance(streams, Mapping) else {}  # anything else is refused below
    several = {f"[{name!r}]": values for name, values in own.items()}
    several |= {f"['streams'][{name!r}]": values for name, values in split.items()}
    for name, values in several.items():
        if np.ndim(values) == 0 or len(values) != rows:
            raise InvalidInput(f"options{name} is not for {rows} environments; pass one for each")
    starts = []
    for row in range(rows):
        each = {name: values[row] for name, values in own.items()}
        each["streams"] = {name: values[row] for name, values in split.items()} if split else streams
        starts.append(check_start(spec, each))
    return starts
