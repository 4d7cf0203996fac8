"""Whole games of *take cover*, from their beginning: are as many fireballs in the air late in a dream as in a game?

The game grows: more and more monsters come. A clip that begins in the midst of a game has them all in its context, and
a measurement over clips cannot see whether a dream would have brought them by itself.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from tqdm import tqdm

from worldsim.episodes import Episodes
from worldsim.evaluate.blobs import find_blobs
from worldsim.evaluate.dreams import Dreams, decode, encode
from worldsim.evaluate.effort import Effort
from worldsim.evaluate.endings import CONTEXT, DrawActions, recorded_actions, watched_episodes
from worldsim.evaluate.metrics import interval, ratio
from worldsim.world import World

AGES = (0, 50, 100, 150, 200, 350)  # steps since the beginning: the edges of the bins
LOOK_EVERY = 5  # steps
BATCH = 38


def measure_growth(world: World, store: Episodes, draw: DrawActions | None, effort: Effort) -> dict[str, Any]:
    """Fireballs in sight by age, in games and in dreams with actions of the same policy.

    `draw` as for `measure_hazard`. Only those who live are counted, at each age.
    """
    limit = min(effort.ending_steps, AGES[-1])
    episodes = watched_episodes(store)
    real = np.stack([_game(store, int(i), limit) for i in tqdm(episodes, desc="whole games")])
    chosen = np.random.default_rng(effort.seed).permutation(np.resize(episodes, effort.growth_dreams))
    dreamed = np.concatenate([
        _dream(world, store, chosen[first : first + BATCH], draw, limit, seed=effort.seed + first)
        for first in tqdm(range(0, len(chosen), BATCH), desc="whole dreams")
    ])  # fmt: skip
    rng = np.random.default_rng(0)
    rows = []
    for bin_, (low, high) in enumerate(pairwise(AGES)):
        seen, dreamt = real[:, :, bin_], dreamed[:, :, bin_]  # (lives, 2) each: fireballs, looks

        def over_real(i: np.ndarray, seen: np.ndarray = seen, dreamt: np.ndarray = dreamt) -> float:
            games = rng.integers(0, len(seen), len(seen))
            return ratio(_mean(dreamt[i]), _mean(seen[games]))

        rows.append({
            "from": low, "to": high, "real": _mean(seen), "dream": _mean(dreamt),
            "ratio": ratio(_mean(dreamt), _mean(seen)), "ratio_ci": interval(over_real, len(dreamed)),
            "real_looks": int(seen[:, 1].sum()), "dream_looks": int(dreamt[:, 1].sum()),
        })  # fmt: skip
    return {"policy": store.meta.policy, "actions": "replayed" if draw is None else "fresh", "in_sight": rows}


def _mean(counts: np.ndarray) -> float:
    """Fireballs a look, of lives (N, 2)."""
    return ratio(counts[:, 0].sum(), counts[:, 1].sum())


def _count(counts: np.ndarray, life: np.ndarray, ages: np.ndarray, pictures: np.ndarray) -> None:
    """Add what is in pictures (K, H, W, 3) of some lives at some ages to counts (lives, 2, bins)."""
    found = np.bincount(find_blobs(pictures).picture, minlength=len(pictures))
    bins = np.searchsorted(AGES, ages, side="right") - 1
    np.add.at(counts[:, 0], (life, bins), found)
    np.add.at(counts[:, 1], (life, bins), 1)


def _game(store: Episodes, episode: int, limit: int) -> np.ndarray:
    """Counts (2, bins) of one recorded episode."""
    first = int(store.ends[episode] - store.lengths[episode])
    rows = np.arange(CONTEXT, min(int(store.lengths[episode]) - 1, limit), LOOK_EVERY)  # the last may have no picture
    counts = np.zeros((1, 2, len(AGES) - 1))
    if len(rows):
        pictures = store.read("rgb", first, first + int(rows[-1]) + 1)[rows]
        _count(counts, np.zeros(len(rows), int), rows, pictures)
    return counts[0]


def _dream(
    world: World, store: Episodes, episodes: np.ndarray, draw: DrawActions | None, limit: int, *, seed: int
) -> np.ndarray:
    """Counts (lives, 2, bins) of one dream from the beginning of each of the episodes."""
    firsts = store.ends[episodes] - store.lengths[episodes]
    frames = np.stack([store.read("rgb", int(f), int(f) + CONTEXT) for f in firsts])
    before = np.stack([store.read("action", int(f) + 1, int(f) + CONTEXT) for f in firsts])
    if draw is None:
        actions, lengths = recorded_actions(store, episodes, limit)
    else:
        actions, lengths = draw(len(episodes), limit, seed), np.full(len(episodes), limit)
    ages = np.zeros(len(frames), np.int64)
    dreams = Dreams(world, encode(world, frames), before, ages, range(seed, seed + len(frames)))
    counts = np.zeros((len(episodes), 2, len(AGES) - 1))
    rows = np.arange(len(episodes))  # those still alive
    for age in range(CONTEXT, limit):
        step = age - CONTEXT
        dreamed = dreams.step(actions[rows, step])
        alive = ~dreamed.ended & (lengths[rows] > step + 1)
        if step % LOOK_EVERY == 0 and alive.any():
            pictures = decode(world, dreamed.latents[np.flatnonzero(alive).tolist(), 0])
            _count(counts, rows[alive], np.full(int(alive.sum()), age), pictures)
        if not alive.all():
            dreams.keep(np.flatnonzero(alive).tolist())
            rows = rows[alive]
        if not len(rows):
            break
    return counts
