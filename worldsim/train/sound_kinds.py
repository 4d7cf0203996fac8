"""Kinds of sound, by which the head of sound is trained: levels of onset strength and of loudness of recorded steps.

Levels begin at quantiles of the recordings, so what a kind means follows from the world's own sound.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from worldsim.data.episodes import Episodes
from worldsim.data.sound import sound_format
from worldsim.evaluate.hearing import flux, loudness
from worldsim.models.audio import SoundKinds

ONSETS = (0.9, 0.95, 0.975, 0.99)  # quantiles of onset strength at which a level begins
RARE = 0.01  # share of steps after a level whose loudness is taken not to occur
LOUDNESS = (0.1, 0.3, 0.5, 0.7, 0.85, 0.95)  # likewise of loudness


def measure_sound(store: Episodes) -> tuple[np.ndarray, np.ndarray]:
    """Onset strength and loudness (RMS of full scale) of every row of a store, (T,) each."""
    rate, first, found = sound_format([store]).rate, 0, []
    for end in store.ends.tolist():
        sound = store.read("audio", first, end).astype(np.float32)[None] / 32_768
        found.append((flux(sound, rate)[0], loudness(sound)[0]))
        first = end
    onsets, loud = (np.concatenate(parts).astype(np.float32) for parts in zip(*found, strict=True))
    return onsets, loud


def choose_kinds(measured: Sequence[tuple[np.ndarray, np.ndarray]]) -> SoundKinds:
    """Kinds that fit the rows of all stores, as `measure_sound` gives them; levels that coincide are one."""
    onsets, loud = (np.concatenate(parts) for parts in zip(*measured, strict=True))
    kinds = SoundKinds(_levels(onsets, ONSETS), _levels(loud, LOUDNESS))
    low, high = next_levels(kinds, [one for _, one in measured])
    return dataclasses.replace(kinds, rms=level_rms(kinds, loud), lowest=low, highest=high)


def level_rms(kinds: SoundKinds, loud: np.ndarray) -> tuple[float, ...]:
    """RMS of a step of each level of loudness, the median; `loud` (T,) is that of every step."""
    level = np.searchsorted(np.array(kinds.loudness, np.float32), loud, side="right")
    return tuple(float(np.median(loud[level == k])) for k in range(len(kinds.loudness) + 1))


def next_levels(kinds: SoundKinds, loud: Sequence[np.ndarray]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The lowest and the highest level of loudness that follow each level, but for `RARE` of the steps at either end.

    `loud` are those of the steps of each store, (T,).
    """
    edges = np.array(kinds.loudness, np.float32)
    levels = [np.searchsorted(edges, one, side="right") for one in loud]
    before, after = (np.concatenate([one[part] for one in levels]) for part in (slice(None, -1), slice(1, None)))
    found = [after[before == k] if (before == k).any() else np.array([0, len(edges)]) for k in range(len(edges) + 1)]
    ends = (np.quantile(one, (RARE, 1 - RARE), method="nearest") for one in found)
    low, high = zip(*((min(int(a), k), max(int(b), k)) for k, (a, b) in enumerate(ends)), strict=True)
    return low, high


def _levels(values: np.ndarray, quantiles: tuple[float, ...]) -> tuple[float, ...]:
    found = np.unique(np.quantile(values, quantiles).astype(np.float32))
    return tuple(float(level) for level in found if level > values.min())


def kinds_of(kinds: SoundKinds, onsets: np.ndarray, loud: np.ndarray) -> np.ndarray:
    """The kind of every row, (T,) int64."""
    level = np.searchsorted(np.array(kinds.onsets, np.float32), onsets, side="right")
    return level * (len(kinds.loudness) + 1) + np.searchsorted(np.array(kinds.loudness, np.float32), loud, side="right")


def onset_rows(kinds: SoundKinds, of_rows: Sequence[np.ndarray]) -> list[np.ndarray]:
    """(store, row) of all rows of each level of onset, (rows, 2) each; `of_rows` are the kinds of each store."""
    loud = len(kinds.loudness) + 1
    levels = []
    for level in range(len(kinds.onsets) + 1):
        found = [np.flatnonzero(one // loud == level) for one in of_rows]
        pairs = [np.stack([np.full_like(rows, index), rows], axis=1) for index, rows in enumerate(found)]
        levels.append(np.concatenate(pairs))
    return [rows for rows in levels if len(rows)]
