"""Action spaces, and actions checked before a world sees them: type, shape, range, NaN; gymnasium checks none of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from worldsim.errors import InvalidAction, InvalidInput
from worldsim.streams import StreamSpec

BOX_DTYPES = ("float32", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)))


@dataclass(frozen=True)
class ActionSpec:
    """An action space that can be written to JSON: either `n` discrete actions or a box of numbers.

    Actions are everywhere those of this space, as the recorded game takes them; only the embedding in the dynamics
    counts discrete ones from 0. Raises InvalidInput for a `box_dtype` that is neither float32 nor an integer type.
    """

    n: int = 0  # number of discrete actions; 0 means a box
    low: tuple[float, ...] = ()  # bounds of a continuous action, one a dimension
    high: tuple[float, ...] = ()
    meanings: tuple[str, ...] = ()  # what each discrete action does, as in ALE
    keys: tuple[tuple[str, ...], ...] = ()  # keys (pygame names, "left") held for each discrete action
    start: int = 0  # the first discrete action; the others follow it
    box_dtype: str = "float32"  # of the box: float32, or an integer type for a box of whole numbers

    def __post_init__(self) -> None:
        if self.box_dtype not in BOX_DTYPES:
            raise InvalidInput(f"box_dtype of the actions is {self.box_dtype!r}; give one of {', '.join(BOX_DTYPES)}")

    @property
    def discrete(self) -> bool:
        """Whether actions are integers in [start, start + n)."""
        return self.n > 0

    @property
    def dtype(self) -> str:
        """The numpy type of recorded actions and of those that a world takes: int64, or float32 in a box of floats."""
        return "int64" if self.discrete or self.box_dtype != "float32" else "float32"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one action: () for discrete ones, (A,) in a box."""
        return () if self.discrete else (len(self.low),)

    def to_stream(self) -> StreamSpec:
        """The actions as a stream of an episode store."""
        return StreamSpec("token" if self.dtype == "int64" else "vector", self.shape, self.dtype)

    def to_space(self) -> gym.spaces.Space[Any]:
        """The gymnasium space of one action."""
        if self.discrete:
            return gym.spaces.Discrete(self.n, start=self.start)
        dtype = np.dtype(self.box_dtype).type
        return gym.spaces.Box(np.array(self.low, dtype), np.array(self.high, dtype), dtype=dtype)

    @property
    def rest(self) -> np.ndarray:
        """The action () or (A,) of one who does nothing: without keys, or the first one; 0 or the middle of a box."""
        if self.discrete:
            return np.array(self.start + (self.keys.index(()) if () in self.keys else 0), self.dtype)
        low, high = np.array(self.low), np.array(self.high)
        return np.where((low <= 0) & (high >= 0), 0, (low + high) / 2).astype(self.dtype)

    def lowest(self, rows: int) -> np.ndarray:
        """For each of `rows` worlds the first action, or the lowest one of a box: (rows,) or (rows, A) of `dtype`."""
        return np.tile(np.array(self.start if self.discrete else self.low, self.dtype), (rows, *(1,) * len(self.shape)))

    def draw(self, rng: np.random.Generator, rows: int | None = None) -> Any:
        """Uniformly random actions: one, or (rows,) or (rows, A) of them."""
        if self.discrete:
            return self.start + rng.integers(self.n, size=rows)
        size = None if rows is None else (rows, *self.shape)
        if self.dtype == "int64":
            return rng.integers(np.array(self.low, np.int64), np.array(self.high, np.int64), size, endpoint=True)
        return rng.uniform(self.low, self.high, size).astype(np.float32)


def check_action(spec: ActionSpec, action: Any, *, clip: bool = False) -> np.ndarray:
    """One action as a batch of one, ready for `world.step`: (1,) or (1, A) of the spec's dtype.

    Integers of any width, python or numpy, 0-d arrays too, are discrete actions; bools and floats are not. With `clip`
    continuous ones are clipped to their bounds. Raises InvalidAction.
    """
    array = _as_array(spec, action)
    if array.shape != spec.shape:
        raise InvalidAction(f"action has shape {array.shape} instead of {spec.shape}; pass one action")
    return _check_values(spec, array[None], np.zeros(1, bool), clip, name=lambda row: "action")


def check_actions(
    spec: ActionSpec, actions: Any, rows: int, ignored: np.ndarray | None = None, *, clip: bool = False
) -> np.ndarray:
    """`rows` actions, ready for `world.step`: (rows,) or (rows, A) of the spec's dtype; raises InvalidAction.

    What stands in the rows marked in `ignored` (rows,) bool is replaced by a valid action. With `clip` continuous
    actions are clipped to their bounds.
    """
    array = _as_array(spec, actions)
    want = (rows, *spec.shape)
    if array.shape != want:
        raise InvalidAction(f"actions have shape {array.shape} instead of {want}; pass one action for each row")
    ignored = np.zeros(rows, bool) if ignored is None else ignored
    return _check_values(spec, array, ignored, clip, name=lambda row: f"action of row {row}")


def _as_array(spec: ActionSpec, action: Any) -> np.ndarray:
    """The action as an array of a type that fits the space, of whatever shape."""
    if _hides_values(action):
        raise InvalidAction("action is a masked array that hides some values; pass one without a mask")
    try:
        array = np.asarray(action)
    except Exception as error:  # of whatever kind: what is asked for its numbers is the caller's own object
        kind = type(action).__name__
        raise InvalidAction(f"action of type {kind} is no number and no array of numbers; pass one") from error
    if array.size == 0:  # an empty list has a float dtype, whatever it was meant to hold
        return array.astype(spec.dtype)
    if array.dtype.kind not in ("iu" if spec.dtype == "int64" else "iuf"):
        numbers = "integers" if spec.dtype == "int64" else "finite floats"
        kind = _range(spec) if spec.discrete else f"an array of {numbers}"
        shown = f"of type {type(action).__name__}" if array.dtype == object else repr(action)
        raise InvalidAction(f"action {shown} has dtype {array.dtype}; pass {kind}")
    return array


def _hides_values(action: Any) -> bool:
    """Whether there is a masked value in an action, or in one of a list of them: numpy would read what is under it."""
    if isinstance(action, list | tuple):
        return any(map(_hides_values, action))
    return isinstance(action, np.ma.MaskedArray) and np.ma.is_masked(action)


def _check_values(spec: ActionSpec, array: np.ndarray, ignored: np.ndarray, clip: bool, name: Any) -> np.ndarray:
    """Range and finiteness of (B, ...) actions; `name(row)` is what a message calls a row."""
    if spec.discrete:
        wrong = ((array < spec.start) | (array >= spec.start + spec.n)) & ~ignored
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise InvalidAction(f"{name(row)} is {array[row]}; pass {_range(spec)}{_names(spec)}")
        return np.where(ignored, spec.start, array).astype(np.int64)
    low, high = np.array(spec.low, spec.dtype), np.array(spec.high, spec.dtype)
    with np.errstate(over="ignore"):
        values = array.astype(spec.dtype)
    values = np.where(ignored[:, None], np.clip(values.dtype.type(0), low, high), values)
    if clip:
        values = np.clip(values, low, high)  # NaN stays NaN
    for wrong, fix in (
        (~np.isfinite(values), "pass finite numbers"),
        ((values < low) | (values > high), f"stay within low {list(spec.low)} and high {list(spec.high)}"),
    ):
        if wrong.any():
            row = int(np.flatnonzero(wrong.any(axis=1))[0])
            raise InvalidAction(f"{name(row)} is {array[row].tolist()}; {fix}")
    return values


def _range(spec: ActionSpec) -> str:
    return f"an integer from {spec.start} to {spec.start + spec.n - 1}"


def _names(spec: ActionSpec) -> str:
    return f" ({', '.join(spec.meanings)})" if spec.meanings else ""
