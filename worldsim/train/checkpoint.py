"""Training checkpoints: one safetensors file with weights, average and optimizer, written atomically; no pickle.

The file's metadata has a JSON text, `worldsim`, and `sha256`, a checksum over this text and all tensors. In format 1
the checksum was in the text and over the tensors only, and the first files had none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from worldsim.config import build
from worldsim.errors import DamagedCheckpoint, InvalidInput
from worldsim.io.files import parse_json, replacing
from worldsim.migration import migrate_settings, migrate_weights

T = TypeVar("T")
FORMAT = 2
META: dict[str, type] = {"kind": str, "step": int, "config": dict}  # what a checkpoint of training says of itself


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write a checkpoint, whole or not at all: a kill leaves the old one or the new.

    `meta` has the fields of `META`, or others that `load_checkpoint` is told of. Raises InvalidInput where it cannot be
    written; an older checkpoint stays as it is.
    """
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = json.dumps({"format": FORMAT, **meta})
    metadata = {"worldsim": content, "sha256": _digest(contiguous, content)}
    try:
        with replacing(path) as partial:
            save_file(contiguous, partial, metadata=metadata)
    except (OSError, SafetensorError) as error:
        raise InvalidInput(
            f"checkpoint {path} cannot be written ({error}); free space on that disk, or choose another --out"
        ) from error


def load_checkpoint(path: Path, fields: Mapping[str, type] = META) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a checkpoint, its tensors and what it says of itself, at least `fields`.

    Raises DamagedCheckpoint naming the file and what to do.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        meta = parse_json(metadata.get("worldsim", ""))
        if not isinstance(meta, dict):
            raise ValueError("its metadata is no object")
    except Exception as error:  # safetensors raises many types on altered headers
        raise DamagedCheckpoint(
            f"checkpoint {path} cannot be read ({error}); restore it from a copy, or train anew without --resume"
        ) from error
    _check(path, tensors, meta, metadata, fields)
    if "config" in fields:
        meta["config"] = migrate_settings(meta["kind"], meta["config"])
    return migrate_weights(tensors), meta


def setting(path: Path, meta: Mapping[str, Any], name: str, kind: type[T]) -> T:
    """One setting in the `config` of a checkpoint, of its type; raises DamagedCheckpoint if it is of another."""
    try:
        return build(kind, meta["config"].get(name), name)
    except InvalidInput as error:
        raise DamagedCheckpoint(
            f"checkpoint {path} has settings that cannot be used ({error}); use the worldsim version that wrote it, "
            "or train anew"
        ) from error


def _check(
    path: Path,
    tensors: Mapping[str, Tensor],
    meta: dict[str, Any],
    metadata: Mapping[str, str],
    fields: Mapping[str, type],
) -> None:
    first = meta.get("format") == 1 and metadata.keys() == {"worldsim"}
    if meta.get("format") != FORMAT and not first:
        raise DamagedCheckpoint(
            f"checkpoint {path} has format {meta.get('format')}, this version reads 1 and {FORMAT}; restore it from a "
            "copy, or train anew"
        )
    if first:  # without a checksum only if it is as the first ones were: a damaged name of it is another stray field
        found = _digest(tensors)
        whole = meta.get("sha256", found) == found and meta.keys() <= {"format", "sha256", *META}
    else:
        whole = metadata.get("sha256") == _digest(tensors, metadata["worldsim"])
    if not whole:
        raise DamagedCheckpoint(
            f"checkpoint {path} is damaged (its checksum differs); restore it from a copy, or train anew"
        )
    for name, kind in fields.items():
        if type(meta.get(name)) is not kind or (kind is int and meta[name] < 0):
            raise DamagedCheckpoint(
                f"checkpoint {path} says that its {name} is {meta.get(name)!r}; restore it from a copy, or train anew"
            )


def _digest(tensors: Mapping[str, Tensor], content: str = "") -> str:
    digest = hashlib.sha256(content.encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimizer's state as named tensors."""
    state = optimizer.state_dict()["state"]
    return {
        f"optimizer.{index}.{name}": torch.as_tensor(value)
        for index, slot in state.items()
        for name, value in slot.items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put the tensors of `optimizer_tensors` back."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".")
            state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
