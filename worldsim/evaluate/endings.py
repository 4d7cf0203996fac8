"""When dreams end, against when games end; and whether the ending head knows it from real frames.

Hazard is endings over steps at risk. It depends on the policy, so the dreams get fresh actions of the very
policy that the real episodes were recorded with, where that policy does not look at the frames. Actions
that were chosen by looking (a recording with `--policy mix` or `dodge`) cannot be drawn afresh: they are
replayed, each dream until its actions run out, which favours the real game, whose dangers they were
dodging.

Games get more dangerous with age, and dreams whose actions run out are seen at other ages than games. So
beside the plain ratio stands the one at the same age: dreamed endings over those that the real hazard of each
age predicts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from worldsim.data.episodes import Episodes
from worldsim.errors import InvalidInput
from worldsim.evaluate.dreams import Dreams, encode
from worldsim.evaluate.effort import Effort
from worldsim.evaluate.metrics import interval, ratio
from worldsim.world import World

CONTEXT = 3  # real rows before a dream begins, as in the starts that ship with a world
BATCH = 38
AGE_BINS = 6

DrawActions = Callable[[int, int, int], np.ndarray]  # (dreams, steps, seed) -> actions (dreams, steps, ...)


@dataclass(frozen=True)
class Lives:
    """How long each of N lives was watched, in steps after the context, and whether it ended then."""

    steps: np.ndarray  # (N,) int64, at least 1
    ended: np.ndarray  # (N,) bool; False: still alive when last seen

    def __getitem__(self, rows: np.ndarray) -> Lives:
        return Lives(self.steps[rows], self.ended[rows])

    @property
    def hazard(self) -> float:
        """Endings over steps at risk."""
        return ratio(self.ended.sum(), self.steps.sum())

    def survival(self) -> tuple[np.ndarray, np.ndarray]:
        """Share alive after each step from 0 (Kaplan and Meier, 1958): steps and shares, (T + 1,) each."""
        ages = np.arange(1, self.steps.max() + 1)
        at_risk = (self.steps[None] >= ages[:, None]).sum(1)
        died = ((self.steps[None] == ages[:, None]) & self.ended).sum(1)
        return np.append(0, ages), np.append(1.0, np.cumprod(1 - died / at_risk))


@dataclass(frozen=True)
class EndingResult:
    """The table, and what the plots show."""

    table: dict[str, Any]
    real: Lives
    dreamed: Lives


def measure_hazard(world: World, store: Episodes, draw: DrawActions | None, effort: Effort) -> EndingResult:
    """Hazard of dreams that begin as the store's episodes do; `draw` None replays the recorded actions."""
    limit = effort.ending_steps
    if world.config.source.max_episode_steps is not None:
        limit = min(limit, world.config.source.max_episode_steps - CONTEXT + 1)
    terminated = store.read("terminated", 0, store.num_steps)[store.ends - 1]
    long_enough = watched_episodes(store)
    watched = store.lengths[long_enough] - CONTEXT
    real = Lives(np.minimum(watched, limit), terminated[long_enough] & (watched <= limit))
    episodes = np.tile(long_enough, -(-effort.ending_dreams // len(long_enough)))
    episodes = np.random.default_rng(effort.seed).permutation(episodes)[: effort.ending_dreams]
    # Dreams of one batch replay about as many actions each, so that few rows idle.
    episodes = episodes[np.argsort(store.lengths[episodes], kind="stable")]
    lives = []
    for first in tqdm(range(0, len(episodes), BATCH), desc="endings"):
        batch = episodes[first : first + BATCH]
        if draw is None:
            actions, lengths = recorded_actions(store, batch, limit)
        else:
            actions = draw(len(batch), limit, effort.seed + first)
            lengths = np.full(len(batch), limit)
        lives.append(_dream(world, store, batch, actions, lengths, seed=effort.seed + first))
    dreamed = Lives(np.concatenate([x.steps for x in lives]), np.concatenate([x.ended for x in lives]))
    table = {
        "policy": store.meta.policy,
        "actions": "replayed" if draw is None else "fresh",
        "real": _describe(real),
        "dream": _describe(dreamed),
        **_ratios(real, dreamed),
    }
    return EndingResult(table, real, dreamed)


def watched_episodes(store: Episodes) -> np.ndarray:
    """The episodes that go on after a context, (N,) int64; raises InvalidInput if none does."""
    long_enough = np.flatnonzero(store.lengths > CONTEXT)
    if not len(long_enough):
        raise InvalidInput(f"no episode of {str(store.path)!r} is longer than {CONTEXT} rows; record longer episodes")
    return long_enough


def recorded_actions(store: Episodes, episodes: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Up to `limit` actions after the context, padded with the last one, and how many there are."""
    firsts = store.ends[episodes] - store.lengths[episodes] + CONTEXT
    lengths = np.minimum(store.ends[episodes] - firsts, limit)
    steps = np.minimum(np.arange(lengths.max())[None], lengths[:, None] - 1)
    rows = [store.read("action", int(f), int(f + n))[s] for f, n, s in zip(firsts, lengths, steps, strict=True)]
    return np.stack(rows), lengths


def _dream(
    world: World,
    store: Episodes,
    episodes: np.ndarray,
    actions: np.ndarray,
    lengths: np.ndarray,
    *,
    seed: int,
) -> Lives:
    """Dream every row until it ends or has taken `lengths` steps."""
    firsts = store.ends[episodes] - store.lengths[episodes]
    frames = np.stack([store.read("rgb", int(f), int(f) + CONTEXT) for f in firsts])
    before = np.stack([store.read("action", int(f) + 1, int(f) + CONTEXT) for f in firsts])
    ages = np.zeros(len(frames), np.int64)
    dreams = Dreams(world, encode(world, frames), before, ages, range(seed, seed + len(frames)))
    steps, ended = lengths.copy(), np.zeros(len(frames), bool)
    rows = np.arange(len(frames))  # those still alive
    for t in range(int(lengths.max())):
        now = dreams.step(actions[rows, t]).ended
        steps[rows[now]], ended[rows[now]] = t + 1, True
        alive = ~now & (lengths[rows] > t + 1)
        if not alive.all():
            dreams.keep(np.flatnonzero(alive).tolist())
            rows = rows[alive]
        if not len(rows):
            break
    return Lives(steps, ended)


def _describe(lives: Lives) -> dict[str, Any]:
    return {
        "hazard": lives.hazard,
        "hazard_ci": interval(lambda i: lives[i].hazard, len(lives.steps)),
        "endings": int(lives.ended.sum()),
        "steps": int(lives.steps.sum()),
        "lives": len(lives.steps),
    }


def _ratios(real: Lives, dreamed: Lives) -> dict[str, Any]:
    rng = np.random.default_rng(0)

    def both(figure: Callable[[Lives, Lives], float]) -> tuple[float, list[float]]:
        # Real and dreamed lives are resampled apart: what happens in them is drawn independently.
        count = len(real.steps)
        return figure(real, dreamed), interval(
            lambda i: figure(real[rng.integers(0, count, count)], dreamed[i]), len(dreamed.steps)
        )

    plain, plain_ci = both(lambda r, d: ratio(d.hazard, r.hazard))
    same, same_ci = both(_same_age_ratio)
    return {"ratio": plain, "ratio_ci": plain_ci, "same_age_ratio": same, "same_age_ratio_ci": same_ci}


def _same_age_ratio(real: Lives, dreamed: Lives) -> float:
    """Dreamed endings over those that the real hazard, age by age, predicts for the dreamed steps at risk."""
    edges = np.unique(np.quantile(real.steps, np.linspace(0, 1, AGE_BINS + 1)[1:-1]))
    predicted = 0.0
    for low, high in zip(np.append(0, edges), np.append(edges, np.inf), strict=True):
        at_risk_real, at_risk = (np.clip(x.steps, low, high).sum() - low * len(x.steps) for x in (real, dreamed))
        died = (real.ended & (real.steps > low) & (real.steps <= high)).sum()
        predicted += at_risk * ratio(died, at_risk_real) if at_risk else 0.0
    return ratio(dreamed.ended.sum(), predicted)
