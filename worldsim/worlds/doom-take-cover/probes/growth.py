"""Whole games of *take cover*, from their beginning: are as many fireballs in the air late in a dream as in a game?

The game grows: more and more monsters come. A clip that begins in the midst of a game has them all in its context, and
a measurement over clips cannot see whether a dream would have brought them by itself.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from tqdm import tqdm

from worldsim.data.episodes import Episodes
from worldsim.evaluate.dreams import Dreams, decode, encode
from worldsim.evaluate.endings import CONTEXT, DrawActions, recorded_actions, watched_episodes
from worldsim.evaluate.metrics import interval, ratio
from worldsim.evaluate.probes import Probe, ProbeContext, ProbeResult
from worldsim.io.text import interval_text, table
from worldsim.world import World

from .blobs import count_blobs

GAMES, QUICK_GAMES = 114, 4  # dreams from the beginning of a game
AGES = (0, 50, 100, 150, 200, 350)  # steps since the beginning: the edges of the bins
LOOK_EVERY = 5  # steps
BATCH = 38


class Growth(Probe):
    """Fireballs in sight by age, in games and in dreams with actions of the same policy.

    Only those who live are counted, at each age.
    """

    name = "growth"

    def check(self, context: ProbeContext) -> None:
        """See that some episode goes on after its context."""
        watched_episodes(context.episodes)

    def measure(self, context: ProbeContext) -> ProbeResult:
        """Look at every fifth step of whole games, and of as many dreams."""
        store, draw, effort = context.episodes, context.draw_actions, context.effort
        limit = min(effort.ending_steps, AGES[-1])
        episodes = watched_episodes(store)
        real = np.stack([_game(store, int(i), limit) for i in tqdm(episodes, desc="whole games")])
        games = np.resize(episodes, QUICK_GAMES if effort.quick else GAMES)
        chosen = np.random.default_rng(effort.seed).permutation(games)
        dreamed = np.concatenate([
            _dream(context.world, store, chosen[first : first + BATCH], draw, limit, seed=effort.seed + first)
            for first in tqdm(range(0, len(chosen), BATCH), desc="whole dreams")
        ])  # fmt: skip
        policy, actions = store.meta.policy, "replayed" if draw is None else "fresh"
        rows = _by_age(real, dreamed)
        head = f"whole games, policy {policy} ({actions} actions): fireballs in sight"
        return ProbeResult({"policy": policy, "actions": actions, "in_sight": rows}, f"{head}\n{_table(rows)}")


def _by_age(real: np.ndarray, dreamed: np.ndarray) -> list[dict[str, Any]]:
    """One row a bin of ages, of counts (lives, 2, bins)."""
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
    return rows


def _table(rows: list[dict[str, Any]]) -> str:
    cells = [
        (
            f"{row['from']} to {row['to']}", f"{row['real']:.2f}", f"{row['dream']:.2f}",
            f"{row['ratio']:.2f} {interval_text(row['ratio_ci'], 2)}",
        )
        for row in rows
    ]  # fmt: skip
    return table(("steps since the beginning", "real", "dream", "ratio"), cells)


def _mean(counts: np.ndarray) -> float:
    """Fireballs a look, of lives (N, 2)."""
    return ratio(counts[:, 0].sum(), counts[:, 1].sum())


def _count(counts: np.ndarray, life: np.ndarray, ages: np.ndarray, frames: np.ndarray) -> None:
    """Add what is in frames (K, H, W, 3) of some lives at some ages to counts (lives, 2, bins)."""
    bins = np.searchsorted(AGES, ages, side="right") - 1
    np.add.at(counts[:, 0], (life, bins), count_blobs(frames))
    np.add.at(counts[:, 1], (life, bins), 1)


def _game(store: Episodes, episode: int, limit: int) -> np.ndarray:
    """Counts (2, bins) of one recorded episode."""
    first = int(store.ends[episode] - store.lengths[episode])
    rows = np.arange(CONTEXT, min(int(store.lengths[episode]) - 1, limit), LOOK_EVERY)  # the last may have no frame
    counts = np.zeros((1, 2, len(AGES) - 1))
    if len(rows):
        frames = store.read("rgb", first, first + int(rows[-1]) + 1)[rows]
        _count(counts, np.zeros(len(rows), int), rows, frames)
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
            shown = decode(world, dreamed.latents[np.flatnonzero(alive).tolist(), 0])
            _count(counts, rows[alive], np.full(int(alive.sum()), age), shown)
        if not alive.all():
            dreams.keep(np.flatnonzero(alive).tolist())
            rows = rows[alive]
        if not len(rows):
            break
    return counts
