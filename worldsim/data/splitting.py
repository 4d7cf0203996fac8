"""Some episodes of a store kept apart, so that a world is measured on what it was not trained on."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from worldsim.data.episode_writer import EpisodeWriter
from worldsim.data.episodes import Episodes
from worldsim.errors import InvalidInput


def split_episodes(store: Episodes, train: Path, held_out: Path, *, share: float, seed: int) -> None:
    """Copy a `share` of the episodes, chosen by `seed`, to the new store `held_out` and the others to `train`.

    Each gets one episode at least, `held_out` two where there are four: the actions of one are played to another.
    Raises InvalidInput for a store of fewer than two, and where a folder is not empty;
    whatever fails, neither is left half-written.
    """
    count = len(store)
    if count < 2:
        raise InvalidInput(
            f"episode store {str(store.path)!r} holds {count} episodes, and one has to be held out; give another "
            "recording as [[held_out]], or more episodes"
        )
    apart = np.random.default_rng(seed).permutation(count)[
        : min(max(round(count * share), 2 if count > 3 else 1), count - 1)
    ]
    try:
        for path, episodes in ((train, np.setdiff1d(np.arange(count), apart)), (held_out, np.sort(apart))):
            _copy(store, path, episodes)
    except BaseException:
        for path in (train, held_out):
            shutil.rmtree(path, ignore_errors=True)
        raise


def _copy(store: Episodes, path: Path, episodes: np.ndarray) -> None:
    with EpisodeWriter(path, store.meta) as writer:
        for episode in episodes:
            end = int(store.ends[episode])
            first = end - int(store.lengths[episode])
            columns = {name: store.read(name, first, end) for name in store.meta.streams}
            for row in range(end - first):
                writer.append({name: values[row] for name, values in columns.items()})
            writer.end_episode()
