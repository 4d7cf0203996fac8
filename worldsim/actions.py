"""Actions checked before a world sees them: type, shape, range, NaN; gymnasium itself checks none of this."""

from __future__ import annotations

from typing import Any

import numpy as np

from worldsim.errors import InvalidAction
from worldsim.spec import ActionSpec


def check_action(spec: ActionSpec, action: Any, *, clip: bool = False) -> np.ndarray:
    """One action as a batch of one, ready for `world.step`: (1,) int64 or (1, A) float32.

    Integers of any width, python or numpy, 0-d arrays too, are discrete actions; bools and floats are not. With `clip`
    continuous ones are clipped to their bounds. Raises InvalidAction.
    """
    array = _as_array(spec, action)
    if array.shape != _shape(spec):
        raise InvalidAction(f"action has shape {array.shape} instead of {_shape(spec)}; pass one action")
    return _check_values(spec, array[None], np.zeros(1, bool), clip, name=lambda row: "action")


def check_actions(
    spec: ActionSpec, actions: Any, rows: int, ignored: np.ndarray | None = None, *, clip: bool = False
) -> np.ndarray:
    """`rows` actions, ready for `world.step`: (rows,) int64 or (rows, A) float32; raises InvalidAction.

    What stands in the rows marked in `ignored` (rows,) bool is replaced by a valid action. With `clip` continuous
    actions are clipped to their bounds.
    """
    array = _as_array(spec, actions)
    want = (rows, *_shape(spec))
    if array.shape != want:
        raise InvalidAction(f"actions have shape {array.shape} instead of {want}; pass one action for each row")
    ignored = np.zeros(rows, bool) if ignored is None else ignored
    return _check_values(spec, array, ignored, clip, name=lambda row: f"action of row {row}")


def _shape(spec: ActionSpec) -> tuple[int, ...]:
    return () if spec.discrete else (len(spec.low),)


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
        return array.astype(np.int64 if spec.discrete else np.float32)
    if array.dtype.kind not in ("iu" if spec.discrete else "iuf"):
        kind = f"an integer from 0 to {spec.n - 1}" if spec.discrete else "an array of finite floats"
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
        wrong = ((array < 0) | (array >= spec.n)) & ~ignored
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise InvalidAction(f"{name(row)} is {array[row]}; pass an integer from 0 to {spec.n - 1}{_names(spec)}")
        return np.where(ignored, 0, array).astype(np.int64)
    low, high = np.array(spec.low, np.float32), np.array(spec.high, np.float32)
    with np.errstate(over="ignore"):
        values = array.astype(np.float32)
    values = np.where(ignored[:, None], np.clip(np.float32(0), low, high), values)
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


def _names(spec: ActionSpec) -> str:
    return f" ({', '.join(spec.meanings)})" if spec.meanings else ""
