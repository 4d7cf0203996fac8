"""Augmentations: recorded episodes changed into others that could have been recorded, at no cost of real steps.

Which of them hold for a game its source declares, and the store of a recording keeps (`EpisodesMeta.augmentations`):
by the name of an augmentation, what that needs to know. A store without such a declaration, as of earlier versions, is
judged by the meanings of its actions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from worldsim.data.episodes import EpisodesMeta
from worldsim.errors import InvalidInput

Streams = dict[str, np.ndarray]  # by name, (T, ...) each
# Some streams of a store, changed; raises InvalidInput where that cannot be.
Augmentation = Callable[[EpisodesMeta, Mapping[str, np.ndarray]], Streams]

AUGMENTATIONS: dict[str, Augmentation] = {}


def register_augmentation(name: str) -> Callable[[Augmentation], Augmentation]:
    """Make a function known as the augmentation `name`, for `worldsim train dynamics --augment`."""

    def register(augmentation: Augmentation) -> Augmentation:
        AUGMENTATIONS[name] = augmentation
        return augmentation

    return register


def augment(name: str, meta: EpisodesMeta, streams: Mapping[str, np.ndarray]) -> Streams:
    """The streams as the augmentation of that name gives them.

    Raises InvalidInput for a name that is not known, and for a store whose source does not declare it.
    """
    if name not in AUGMENTATIONS:
        raise InvalidInput(f"unknown augmentation {name!r}; there are {', '.join(sorted(AUGMENTATIONS))}")
    if meta.augmentations is not None and name not in meta.augmentations:
        raise InvalidInput(
            f"source {meta.source!r} does not declare the augmentation {name!r}; train without --augment {name}"
        )
    return AUGMENTATIONS[name](meta, streams)


@register_augmentation("mirror")
def mirror(meta: EpisodesMeta, streams: Mapping[str, np.ndarray]) -> Streams:
    """Episodes as a mirror shows them: for games in which left and right are alike.

    The declaration has `actions`, pairs of action meanings that change places.
    """
    return {name: _mirrored(meta, name, values) for name, values in streams.items()}


def _mirrored(meta: EpisodesMeta, name: str, values: np.ndarray) -> np.ndarray:
    if name in ("rgb", "between"):
        return np.ascontiguousarray(values[..., ::-1, :])  # (..., H, W, 3)
    if name in meta.streams and meta.streams[name].kind == "audio" and values.shape[-1] <= 2:
        return np.ascontiguousarray(values[..., ::-1])  # (..., samples, channels): left and right change places
    if name == "action":
        return _partners(meta)[values - meta.actions.start] + meta.actions.start
    raise InvalidInput(f"stream {name!r} has no mirror image; train without --augment mirror")


def _partners(meta: EpisodesMeta) -> np.ndarray:
    """The action that each discrete action is in the mirror, counted from 0, (n,) int64."""
    declared: Mapping[str, Any] = (meta.augmentations or {}).get("mirror", {})
    names = meta.actions.meanings
    if "actions" in declared:
        exchanged = {name: name for name in names}
        for one, other in declared["actions"]:
            exchanged |= {one: other, other: one}
    else:
        exchanged = {name: _by_meaning(name) for name in names}
    numbers = {name: index for index, name in enumerate(names)}
    partners = [numbers.get(exchanged[name]) for name in names]
    if not meta.actions.discrete or len(partners) != meta.actions.n or None in partners:
        raise InvalidInput(
            f"actions {', '.join(names) or 'without meanings'} have no mirror image; train without --augment mirror"
        )
    return np.array(partners, np.int64)


def _by_meaning(name: str) -> str:
    """LEFT in an action's meaning reads RIGHT, and the reverse."""
    return "RIGHT".join(part.replace("RIGHT", "LEFT") for part in name.split("LEFT"))
