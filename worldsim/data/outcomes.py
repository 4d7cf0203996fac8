"""What came of recorded actions: whether the task was done soon after, of every row of a store."""

from __future__ import annotations

import numpy as np

from worldsim.data.latents import LatentEpisodes
from worldsim.models.acting import NOT_SOON, SOON, UNKNOWN


def outcomes(store: LatentEpisodes, success: str | None, soon: int) -> np.ndarray:
    """What comes of the actions after each row within so many steps, (T,) int64, by the stream `success` of booleans.

    UNKNOWN everywhere where the store has no such stream.
    """
    if success not in store.streams:
        return np.full(len(store.latents), UNKNOWN)
    left, near = rows_left(store), np.zeros(len(store.latents), bool)
    done = np.flatnonzero(store.streams[success])
    for ahead in range(1, soon + 1):
        rows = done - ahead
        rows = rows[rows >= 0]
        near[rows[left[rows] >= ahead]] = True
    return np.where(near, SOON, NOT_SOON)


def rows_left(store: LatentEpisodes) -> np.ndarray:
    """How many rows follow each row in its episode, (T,)."""
    return np.concatenate([np.arange(length)[::-1] for length in np.diff(store.ends, prepend=0)])
