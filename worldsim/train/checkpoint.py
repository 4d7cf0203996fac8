"""Training checkpoints: one safetensors file with weights, average and optimizer, written atomically; no pickle."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from worldsim.errors import DamagedCheckpoint, InvalidInput

FORMAT = 1


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write a checkpoint next to `path`, then put it in place in one rename: a kill leaves the old one or the new.

    Raises InvalidInput where it cannot be written; an older checkpoint is unharmed.
    """
    temporary = path.with_suffix(".partial")
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = json.dumps({"format": FORMAT, "sha256": _digest(contiguous), **meta})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            save_file(contiguous, temporary, metadata={"worldsim": content})
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        raise InvalidInput(
            f"checkpoint {path} cannot be written ({error}); free space on that disk, or choose another --out"
        ) from error


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a checkpoint; raises DamagedCheckpoint naming the file and what to do."""
    try:
        with safe_open(path, framework="pt") as file:
            meta = json.loads((file.metadata() or {}).get("worldsim", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise DamagedCheckpoint(
            f"checkpoint {path} cannot be read ({error}); restore it from a copy, or train anew without --resume"
        ) from error
    if meta.get("format") != FORMAT:
        raise DamagedCheckpoint(
            f"checkpoint {path} has format {meta.get('format')}, this version reads {FORMAT}; or train anew"
        )
    if meta.get("sha256", found := _digest(tensors)) != found:  # the first checkpoints had none
        raise DamagedCheckpoint(
            f"checkpoint {path} is damaged (its checksum differs); restore it from a copy, or train anew"
        )
    return tensors, meta


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
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
