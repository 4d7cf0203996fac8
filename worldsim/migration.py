"""Worlds and checkpoints of earlier versions as those of today.

Format 6 of worlds had `burst`, a head that drew several steps at once, and `dynamics.cycle`, the hour of a game's clock
as an embedding. Neither was of use. What the embedding added in the mean is now part of the noise level's bias.
The states of such worlds had seed, episode and time beside the cache, not under `keys`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

WORLD_FORMAT = 7


def migrate_config(values: dict[str, Any]) -> dict[str, Any]:
    """The content of a `config.json`; one of a format that is not known is given back as it is."""
    if values.get("format_version") != 6:
        return values
    values = {name: value for name, value in values.items() if name != "burst"}
    if isinstance(values.get("dynamics"), dict):
        values["dynamics"] = migrate_sizes(values["dynamics"])
    return values | {"format_version": 7}


def migrate_sizes(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `DynamicsConfig`, in a world's config or in a checkpoint's."""
    return {name: value for name, value in values.items() if name != "cycle"}


def migrate_weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The named weights of a world or a checkpoint; those of today stay as they are."""
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("burst.")}
    for name in [name for name in kept if name.endswith("dynamics.phase.weight")]:
        bias = name.replace("phase.weight", "level.bias")
        if bias in kept:
            mean = kept.pop(name).float().mean(0)  # (cond_dim,)
            kept[bias] = (kept[bias].float() + mean).to(kept[bias].dtype)
    return kept


def migrate_optimizer(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a checkpoint that has the embedding, without the optimizer's state of it.

    That is numbered in the order of the parameters: place, action, level, age, phase.
    """
    if "model.dynamics.phase.weight" not in tensors:
        return dict(tensors)
    gone = 6 if "model.dynamics.action.bias" in tensors else 5
    kept: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "optimizer":
            index, _, key = rest.partition(".")
            if int(index) == gone:
                continue
            name = f"optimizer.{int(index) - (int(index) > gone)}.{key}"
        kept[name] = tensor
    return kept


def migrate_state(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The named leaves of a saved state; those of today, and those of other worlds than ours, stay as they are."""
    if not {"/past", "/cache/written", "/seed", "/episode", "/time"} <= tensors.keys():
        return dict(tensors)
    keys = ("/seed", "/episode", "/time")
    return {f"/keys{name}" if name in keys else name: tensor for name, tensor in tensors.items()}
