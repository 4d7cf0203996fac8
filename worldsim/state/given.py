"""What worlds are told to begin with, checked: seeds, ages, frames with the actions between them, other sensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from worldsim.actions import check_actions
from worldsim.config import WorldConfig
from worldsim.errors import InvalidInput
from worldsim.sampling import noise
from worldsim.spec import StreamSpec


def check_seeds(seed: Sequence[int] | int, episode: Sequence[int] | None) -> tuple[list[int], list[int]]:
    """Seeds, those of more than 63 bits folded, and as many episode numbers, by default 0."""
    many: Sequence[int] = [seed] if np.ndim(seed) == 0 else seed  # type: ignore[list-item,assignment]
    seeds = _integers("seed", [noise.fold_seed(int(s)) if _is_integer(s) else s for s in many])
    episodes = [0] * len(seeds) if episode is None else _integers("episode", episode)
    if len(episodes) != len(seeds) or not seeds:
        raise InvalidInput(f"reset got {len(seeds)} seeds and {len(episodes)} episode numbers; give one each a world")
    return seeds, episodes


def check_ages(values: Sequence[int] | None, count: int) -> list[int]:
    """Steps since the beginning of an episode, of each world; by default 0."""
    ages = [0] * count if values is None else _integers("age", values)
    if len(ages) != count or min(ages, default=0) < 0:
        raise InvalidInput(f"ages are {ages}; give one of 0 or more for each of the {count} worlds, in steps")
    return ages


def check_frames(
    frames: np.ndarray, actions: np.ndarray | None, config: WorldConfig, batch: int
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Frames (B, T, H, W, 3) uint8, and of each world the T - 1 actions between them."""
    sizes = config.tokenizer
    frames = as_array("frames", frames)
    right_shape = frames.ndim == 5 and frames.shape[0] == batch and frames.shape[2:] == (sizes.height, sizes.width, 3)
    if frames.dtype != np.uint8 or not right_shape or frames.shape[1] < 1:
        raise InvalidInput(
            f"frames have shape {frames.shape} and type {frames.dtype}; {config.name} wants uint8 "
            f"({batch}, T, {sizes.height}, {sizes.width}, 3) with T >= 1"
        )
    between = frames.shape[1] - 1
    shape = (batch, between) if config.actions.discrete else (batch, between, len(config.actions.low))
    taken = np.zeros(shape, np.int64) if actions is None and not between else as_array("actions", actions)
    if taken.shape != shape:
        raise InvalidInput(
            f"actions have shape {taken.shape}; {frames.shape[1]} frames have actions of shape {shape} between them"
        )
    return frames, [check_actions(config.actions, row, between) for row in taken]


def check_streams(
    given: Mapping[str, np.ndarray], specs: Mapping[str, StreamSpec], world: str, batch: int, steps: int
) -> dict[str, np.ndarray]:
    """What other sensors gave with the frames, (B, T, ...) in the type of their spec."""
    if unknown := sorted(given.keys() - specs.keys()):
        raise InvalidInput(f"world {world!r} has no stream {unknown[0]!r}; leave it out")
    values = {}
    for name, one in given.items():
        array, wanted = as_array(name, one), (batch, steps, *specs[name].shape)
        if array.shape != wanted or not np.isfinite(array).all():
            raise InvalidInput(f"stream {name!r} has shape {array.shape}; give finite numbers of shape {wanted}")
        values[name] = array.astype(specs[name].dtype)
    return values


def _is_integer(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _integers(name: str, values: Sequence[int]) -> list[int]:
    """Plain integers that fit the state; anything else is no seed, not even if it could be rounded to one."""
    for value in values:
        if not _is_integer(value) or not -(2**63) <= value < 2**63:
            raise InvalidInput(f"{name} {value!r} is no 64-bit integer; give one for each world, each with its seed")
    return [int(value) for value in values]


def as_array(name: str, value: Any) -> np.ndarray:
    """The value as an array; nested lists of several lengths are none."""
    try:
        return np.asarray(value)
    except ValueError as error:
        raise InvalidInput(
            f"{name} are no array ({error}); give a numpy array with the worlds as first axis"
        ) from error
