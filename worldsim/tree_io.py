"""A batched state (`worldsim.tree`) as a .safetensors file: named tensors, the rest as JSON, a checksum."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save

from worldsim.errors import InvalidInput
from worldsim.files import parse_json

T = TypeVar("T")
FORMAT = "worldsim-tree-1"
Scalar = bool | int | float | str | None


def save_tree(path: Path | str, tree: Any, extra: Mapping[str, Any] | None = None) -> None:
    """Write a tree and a few JSON values beside it; the file appears whole or not at all.

    Leaves are tensors and arrays of numbers; bool, int, float, str and None between them are kept too.
    Raises InvalidInput for anything else in the tree, and where the file cannot be written.
    """
    tensors: dict[str, torch.Tensor] = {}
    scalars: dict[str, Scalar] = {}

    def collect(name: str, value: Any) -> Any:
        if name in tensors or name in scalars:
            raise InvalidInput(f"two parts of the state are both named {name!r}; rename one of them")
        if isinstance(value, torch.Tensor | np.ndarray):
            tensors[name] = _as_tensor(name, value)
        else:
            scalars[name] = _as_scalar(name, value)
        return value

    _walk(collect, "", tree)
    content = json.dumps({"scalars": scalars, "extra": dict(extra or {})})
    metadata = {"format": FORMAT, "content": content, "sha256": _digest(content, tensors)}
    write_atomically(path, save(tensors, metadata))


def load_extra(path: Path | str) -> dict[str, Any]:
    """The JSON values that were written beside a tree."""
    return _read(path)[1]["extra"]


def load_tree(path: Path | str, template: T) -> T:
    """A tree from a file, in the structure and on the devices of `template`, which stays as it is.

    Raises InvalidInput for a missing or damaged file, and where names, shapes or dtypes differ.
    """
    tensors, content = _read(path)
    scalars: dict[str, Scalar] = content["scalars"]
    unused = set(tensors) | set(scalars)

    def restore(name: str, value: Any) -> Any:
        unused.discard(name)
        if isinstance(value, torch.Tensor | np.ndarray):
            if name not in tensors:
                raise _mismatch(path, f"it has no array {name!r}")
            return _like(path, name, tensors[name], value)
        if name not in scalars:
            raise _mismatch(path, f"it has no value {name!r}")
        return value if value is None and scalars[name] is None else _scalar_like(path, name, scalars[name], value)

    tree = _walk(restore, "", template)
    if unused:
        raise _mismatch(path, f"it also has {sorted(unused)}")
    return tree


@contextlib.contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """Turn what goes wrong on the disk inside this block into InvalidInput that names `path`."""
    try:
        yield
    except OSError as error:
        raise InvalidInput(
            f"cannot write {str(path)!r} ({error.strerror or error}); give a path that can be written, on a disk with "
            "space"
        ) from error


def write_atomically(path: Path | str, data: bytes) -> None:
    """Write a file by way of a temporary one beside it, so that a kill or a full disk leaves the old one.

    A pipe or a device, such as /dev/stdout, is written as it is. Raises InvalidInput where that cannot be.
    """
    path = Path(path)
    with writing(path):
        if path.exists() and not path.is_file():
            path.write_bytes(data)
            return
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


def _walk(fn: Callable[[str, Any], Any], name: str, tree: Any) -> Any:
    """Rebuild a tree with `fn(name, value)` for all in it that is no container; names are paths."""
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        fields = {f.name: getattr(tree, f.name) for f in dataclasses.fields(tree)}
        return dataclasses.replace(tree, **{k: _walk(fn, f"{name}/{k}", v) for k, v in fields.items()})
    if isinstance(tree, dict):
        if not all(isinstance(key, str) for key in tree):
            raise InvalidInput(f"the state's dict at {name or '/'!r} has keys that are not strings; use strings")
        return type(tree)({k: _walk(fn, f"{name}/{k}", v) for k, v in tree.items()})
    if isinstance(tree, list | tuple):
        items = [_walk(fn, f"{name}/{i}", item) for i, item in enumerate(tree)]
        return type(tree)(*items) if hasattr(tree, "_fields") else type(tree)(items)
    return fn(name or "/", tree)


def _as_tensor(name: str, leaf: torch.Tensor | np.ndarray) -> torch.Tensor:
    try:
        tensor = torch.from_numpy(np.array(leaf, order="C")) if isinstance(leaf, np.ndarray) else leaf.detach()
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"array {name!r} has dtype {leaf.dtype}, which cannot be written; use numbers") from error
    return tensor.cpu().clone(memory_format=torch.contiguous_format)


def _as_scalar(name: str, value: Any) -> Scalar:
    if isinstance(value, np.generic):
        value = value.item()
    if value is not None and not isinstance(value, bool | int | float | str):
        kind = type(value).__name__
        raise InvalidInput(f"the state holds a {kind} at {name!r}, which cannot be written; use arrays and numbers")
    return value


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
        if not all(isinstance(content[name], dict) for name in ("scalars", "extra")):
            raise TypeError("its parts are no objects")
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


def _scalar_like(path: Path | str, name: str, found: Scalar, value: Any) -> Any:
    plain = value.item() if isinstance(value, np.generic) else value
    if type(found) is not type(plain):
        kinds = f"a {type(found).__name__} instead of a {type(plain).__name__}"
        raise _mismatch(path, f"its value {name!r} is {kinds}")
    return type(value)(found)


def _mismatch(path: Path | str, what: str) -> InvalidInput:
    return InvalidInput(f"state file {str(path)!r} belongs to another world or version: {what}; save the state again")
