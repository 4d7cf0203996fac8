"""The ending head on real frames: does it know the step at which the game ended?"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from worldsim.data.episodes import Episodes
from worldsim.evaluate.dreams import Dreams, encode
from worldsim.evaluate.effort import Effort
from worldsim.evaluate.metrics import interval, ratio
from worldsim.world import World

THRESHOLD = 0.5
TOLERANCE = 2  # steps by which an alarm may miss the ending, in the lenient figures
BATCH = 16
# Counted in every episode: alarms, those at an ending or near one; endings, those with an alarm or near one.
COUNTED = ("alarms", "hits", "near_hits", "endings", "found", "nearly_found")
SHARES = {
    "precision": ("hits", "alarms"),
    "recall": ("found", "endings"),
    "precision_within_2": ("near_hits", "alarms"),
    "recall_within_2": ("nearly_found", "endings"),
}
BINS = np.array([0, 0.01, 0.03, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0])


def measure_ending_head(world: World, store: Episodes, effort: Effort) -> dict[str, Any]:
    """Precision, recall and calibration with the true frames before every step."""
    found = outcomes_of_recorded(world, store)
    counts = np.array(
        [_count(p, e) for p, e in zip(found.probability, found.ended, strict=True)]
    )  # (episodes, COUNTED)
    figures: dict[str, Any] = {}
    for name, (part, whole) in SHARES.items():
        column, of = counts[:, COUNTED.index(part)], counts[:, COUNTED.index(whole)]

        def share(i: np.ndarray, column: np.ndarray = column, of: np.ndarray = of) -> float:
            return ratio(column[i].sum(), of[i].sum())

        figures[name] = share(np.arange(len(counts)))
        figures[f"{name}_ci"] = interval(share, len(counts), seed=effort.seed)
    p, e = np.concatenate(found.probability), np.concatenate(found.ended)
    error, reliability = _calibration(p, e)
    return {
        **figures,
        "steps": len(p),
        "endings": int(e.sum()),
        "expected_over_observed": ratio(p.sum(), e.sum()),
        "calibration_error": error,
        "reliability": reliability,
    }


@dataclass
class Outcomes:
    """What was said of the steps of recorded episodes, and what came: an array (T - 1,) for each episode."""

    probability: list[np.ndarray] = field(default_factory=list)  # of the ending
    ended: list[np.ndarray] = field(default_factory=list)  # bool
    reward: list[np.ndarray] = field(default_factory=list)  # as the world says it
    paid: list[np.ndarray] = field(default_factory=list)  # as it was recorded


def outcomes_of_recorded(world: World, store: Episodes) -> Outcomes:
    """What the world says of every recorded step with the true frames before it, and what came."""
    lengths = store.lengths
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] > 1]
    firsts = store.ends - lengths
    found = Outcomes()
    for begin in tqdm(range(0, len(order), BATCH), desc="ending head"):
        episodes = order[begin : begin + BATCH]
        latents = [encode(world, store.read("rgb", int(firsts[i]), int(store.ends[i]) - 1)) for i in episodes]
        actions = [store.read("action", int(firsts[i]), int(store.ends[i])) for i in episodes]
        steps = max(map(len, latents))
        # A shorter episode repeats its last frame; what is said of it then is cut off below.
        clip = torch.stack([torch.cat([z, z[-1:].expand(steps - len(z), *z.shape[1:])]) for z in latents])
        taken = np.stack([a[np.minimum(np.arange(steps + 1), len(a) - 1)] for a in actions])
        ages = np.zeros(len(episodes), np.int64)
        dreams = Dreams(world, clip[:, :1], taken[:, :0], ages, range(len(episodes)))
        following = [*range(1, steps), steps - 1]  # the frame after the last step is never seen
        seen = [dreams.observe(clip[:, f], taken[:, t + 1]) for t, f in enumerate(following)]
        said = np.stack([step.extras["termination_probability"] for step in seen], axis=1)
        rewards = np.stack([step.reward for step in seen], axis=1)
        found.probability += [row[: len(z)] for row, z in zip(said, latents, strict=True)]
        found.reward += [row[: len(z)] for row, z in zip(rewards, latents, strict=True)]
        found.ended += [store.read("terminated", int(firsts[i]) + 1, int(store.ends[i])) for i in episodes]
        found.paid += [store.read("reward", int(firsts[i]) + 1, int(store.ends[i])) for i in episodes]
    return found


def _count(probability: np.ndarray, ended: np.ndarray) -> tuple[int, ...]:
    """What COUNTED names, in one episode."""
    alarm = probability > THRESHOLD
    window = np.ones(2 * TOLERANCE + 1)
    near_end = np.convolve(ended, window)[TOLERANCE:-TOLERANCE] > 0
    near_alarm = np.convolve(alarm, window)[TOLERANCE:-TOLERANCE] > 0
    counted = (alarm, alarm & ended, alarm & near_end, ended, ended & alarm, ended & near_alarm)
    return tuple(int(c.sum()) for c in counted)


def _calibration(probability: np.ndarray, ended: np.ndarray) -> tuple[float, list[dict[str, float]]]:
    """Expected calibration error over unequal bins (nearly all steps are safe), and the bins."""
    which = np.clip(np.searchsorted(BINS, probability, side="right") - 1, 0, len(BINS) - 2)
    rows = []
    for k in range(len(BINS) - 1):
        inside = which == k
        if inside.any():
            said, seen = float(probability[inside].mean()), float(ended[inside].mean())
            rows.append({"said": said, "seen": seen, "steps": int(inside.sum())})
    error = sum(r["steps"] * abs(r["said"] - r["seen"]) for r in rows) / len(probability)
    return float(error), rows
