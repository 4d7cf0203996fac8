"""What `reset` may be given: seeds, and pictures to start from; checked before anything changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from worldsim.actions import check_actions
from worldsim.errors import InvalidInput
from worldsim.spec import WorldSpec

SEED_LIMIT = 1 << 63  # seeds are reported in int64 arrays


@dataclass(frozen=True)
class Start:
    """Pictures to begin an episode from, oldest first, and the actions taken between them."""

    frames: np.ndarray  # (T, H, W, 3) uint8, T >= 1
    actions: np.ndarray  # (T - 1,) int64 or (T - 1, A) float32


def check_seed(seed: Any) -> int | None:
    """None or an integer in [0, 2**63); raises InvalidInput."""
    if seed is None:
        return None
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= int(seed) < SEED_LIMIT:
        raise InvalidInput(f"seed {seed!r} is no integer from 0 to 2**63 - 1; pass one, or None")
    return int(seed)


def check_seeds(seed: Any, rows: int) -> list[int | None]:
    """One seed a row: an integer expands to seed, seed + 1, …; None leaves all rows unseeded."""
    if isinstance(seed, list | tuple | np.ndarray):
        if len(seed) != rows:
            raise InvalidInput(f"{len(seed)} seeds for {rows} environments; pass one for each")
        return [check_seed(one) for one in seed]
    first = check_seed(seed)
    return [None if first is None else check_seed(first + row) for row in range(rows)]


def check_options(options: Any, known: tuple[str, ...] = ("frames", "actions")) -> dict[str, Any]:
    """The options as a dict of known keys; raises InvalidInput for anything else."""
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise InvalidInput(f"options is a {type(options).__name__}; pass a dict")
    unknown = sorted(str(key) for key in options if key not in known)
    if unknown:
        raise InvalidInput(f"unknown reset options {unknown}; this environment knows {list(known)}")
    return dict(options)


def check_start(spec: WorldSpec, frames: Any, actions: Any) -> Start | None:
    """Pictures (T, H, W, 3) uint8 and the T - 1 actions between them, or None when neither is given."""
    if frames is None:
        if actions is not None:
            raise InvalidInput("options['actions'] came without options['frames']; pass the pictures too")
        return None
    pictures = np.asarray(frames)
    if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[1:] != (spec.height, spec.width, 3):
        want = f"uint8 (T, {spec.height}, {spec.width}, 3)"
        raise InvalidInput(f"options['frames'] is {pictures.dtype} {pictures.shape}; pass {want}, oldest first")
    if len(pictures) == 0:
        raise InvalidInput("options['frames'] is empty; pass at least one picture")
    if actions is None and len(pictures) > 1:
        between = len(pictures) - 1
        raise InvalidInput(f"options['frames'] has {between + 1} pictures; pass the {between} actions between them")
    if actions is None:
        actions = np.zeros((0,) if spec.actions.discrete else (0, len(spec.actions.low)))
    return Start(pictures, check_actions(spec.actions, actions, len(pictures) - 1))


def check_starts(spec: WorldSpec, frames: Any, actions: Any, rows: int) -> list[Start | None]:
    """One start a row: pictures (T, H, W, 3) serve every row, (rows, T, H, W, 3) give each its own."""
    if frames is None or np.ndim(frames) != 5:
        return [check_start(spec, frames, actions)] * rows
    if len(frames) != rows or (actions is not None and len(actions) != rows):
        raise InvalidInput(f"options hold starts for {len(frames)} environments instead of {rows}; pass one for each")
    return [check_start(spec, frames[row], None if actions is None else actions[row]) for row in range(rows)]
