"""A batched state (`worldsim.state.tree`) as a .safetensors file: named tensors, and a checksum."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save

from worldsim.errors import InvalidInput
from worldsim.io.files import parse_json, write_atomically
from worldsim.migration import migrate_state
from worldsim.state.tree import Leaf, map_named

T = TypeVar("T")
FORMAT = "worldsim-tree-1"


def save_tree(path: Path | str, tree: Any, extra: Mapping[str, Any] | None = None) -> None:
    """Write a tree and a few JSON values beside it; the file appears whole or not at all.

    Leaves are tensors and arrays of numbers. Raises InvalidInput for anything else in the tree, and where the file
    cannot be written.
    """
    tensors: dict[str, torch.Tensor] = {}

    def collect(name: str, leaf: Leaf) -> Leaf:
        if name in tensors:
            raise InvalidInput(f"two parts of the state are both named {name!r}; rename one of them")
        tensors[name] = _as_tensor(name, leaf)
        return leaf

    map_named(collect, tree)
    content = json.dumps({"extra": dict(extra or {})})
    metadata = {"format": FORMAT, "content": content, "sha256": _digest(content, tensors)}
    write_atomically(path, save(tensors, metadata))


def load_extra(path: Path | str) -> dict[str, Any]:
    """The JSON values that were written beside a tree."""
    return _read(path)[1]["extra"]


def load_tree(path: Path | str, template: T) -> T:
    """A tree from a file, in the structure and on the devices of `template`, which stays as it is.

    Raises InvalidInput for a missing or damaged file, and where names, shapes or dtypes differ.
    """
    tensors = migrate_state(_read(path)[0])
    unused = set(tensors)

    def restore(name: str, leaf: Leaf) -> Leaf:
        unused.discard(name)
        if name not in tensors:
            raise _mismatch(path, f"it has no array {name!r}")
        return _like(path, name, tensors[name], leaf)

    tree = map_named(restore, template)
    if unused:
        raise _mismatch(path, f"it also has {sorted(unused)}")
    return tree


def _as_tensor(name: str, leaf: torch.Tensor | np.ndarray) -> torch.Tensor:
    try:
        tensor = torch.from_numpy(np.array(leaf, order="C")) if isinstance(leaf, np.ndarray) else leaf.detach()
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"array {name!r} has dtype {leaf.dtype}, which cannot be written; use numbers") from error
    return tensor.cpu().clone(memory_format=torch.contiguous_format)


def _digest(content: str, tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256(content.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _read(path: Path | str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and the decoded JSON of a file whose checksum holds."""
    if not Path(path).is_file():
        raise InvalidInput(f"there is no state file {str(path)!r}; give the path of one that was saved")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except Exception as error:  # safetensors raises many types on altered headers
        raise InvalidInput(f"state file {str(path)!r} is damaged ({error}); save the state again") from error
    if metadata.get("format") != FORMAT:
        found = metadata.get("format")
        raise InvalidInput(f"{str(path)!r} has format {found!r} instead of {FORMAT!r}; save the state again")
    if metadata.get("sha256") != _digest(metadata.get("content", ""), tensors):
        raise InvalidInput(f"state file {str(path)!r} is damaged (its checksum differs); save the state again")
    try:
        content = parse_json(metadata.get("content", ""))
        if not isinstance(content["extra"], dict):
            raise TypeError("its values are no object")
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"state file {str(path)!r} is damaged ({error}); save the state again") from error
    return tensors, content


def _like(path: Path | str, name: str, tensor: torch.Tensor, leaf: torch.Tensor | np.ndarray) -> Any:
    """The tensor as the kind of leaf that the template has there; same shape and dtype required."""
    dtype = str(leaf.dtype).removeprefix("torch.")
    found = str(tensor.dtype).removeprefix("torch.")
    if tuple(tensor.shape) != tuple(leaf.shape) or found != dtype:
        want = f"{dtype} {tuple(leaf.shape)}"
        raise _mismatch(path, f"its array {name!r} is {found} {tuple(tensor.shape)} instead of {want}")
    return tensor.numpy().copy() if isinstance(leaf, np.ndarray) else tensor.to(leaf.device)


def _mismatch(path: Path | str, what: str) -> InvalidInput:
    return InvalidInput(f"state file {str(path)!r} belongs to another world or version: {what}; save the state again")
