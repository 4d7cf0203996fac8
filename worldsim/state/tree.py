"""Batched state as a tree: nested dataclasses, dicts, lists and tuples whose leaves have the batch axis first.

Environments hold, copy and splice states without knowing what is in them; a user's own model takes part as
long as its state is such a tree of `torch.Tensor` and `numpy.ndarray` leaves.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch

from worldsim.errors import InvalidInput

T = TypeVar("T")
Leaf = torch.Tensor | np.ndarray


def tree_map(fn: Callable[..., Any], tree: T, *others: T) -> T:
    """Apply `fn` to matching leaves of one or more trees of the same shape.

    Raises InvalidInput for a leaf that is no tensor or array: copies would share it, and rows would have one between
    them.
    """
    return map_named(lambda name, *leaves: fn(*leaves), tree, *others)


def map_named(fn: Callable[..., Any], tree: T, *others: T, name: str = "") -> T:
    """As `tree_map`; `fn` gets each leaf's name before it, its path as in "/cache/keys/0"."""
    if isinstance(tree, torch.Tensor | np.ndarray):
        return fn(name or "/", tree, *others)
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        changed = {
            f.name: map_named(fn, getattr(tree, f.name), *(getattr(o, f.name) for o in others), name=f"{name}/{f.name}")
            for f in dataclasses.fields(tree)
        }
        return dataclasses.replace(tree, **changed)
    if isinstance(tree, dict):
        if not all(isinstance(key, str) for key in tree):
            raise InvalidInput(f"the state's dict at {name or '/'!r} has keys that are not strings; use strings")
        items = {k: map_named(fn, v, *(o[k] for o in others), name=f"{name}/{k}") for k, v in tree.items()}  # type: ignore[index]
        return type(tree)(items)
    if isinstance(tree, list | tuple):
        several = [
            map_named(fn, *leaves, name=f"{name}/{i}") for i, leaves in enumerate(zip(tree, *others, strict=True))
        ]
        is_namedtuple = hasattr(tree, "_fields")
        return type(tree)(*several) if is_namedtuple else type(tree)(several)
    kind = type(tree).__name__
    raise InvalidInput(f"the state holds a {kind} at {name or '/'!r}; use tensors and arrays with the batch first")


def clone(tree: T) -> T:
    """Copy every leaf, so that stepping one tree leaves the other as it is, bit for bit."""
    return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, torch.Tensor) else leaf.copy(), tree)


def select_rows(tree: T, rows: Sequence[int]) -> T:
    """A new tree with only the given batch rows, copied, in the given order."""
    index = list(rows)
    return tree_map(lambda leaf: leaf[index], tree)


def put_rows(tree: T, rows: Sequence[int], values: T) -> T:
    """Write the rows of `values` (batch size `len(rows)`) over the given rows of `tree`, in place; returns `tree`."""
    index = list(rows)

    def put(leaf: Leaf, value: Leaf) -> Leaf:
        leaf[index] = value  # type: ignore[assignment]
        return leaf

    with torch.inference_mode():  # elsewhere torch forbids writing to tensors that were made in that mode
        return tree_map(put, tree, values)
