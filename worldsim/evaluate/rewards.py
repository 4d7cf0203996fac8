"""Rewards: the head on real frames, and what whole dreams earn beside the real episodes with the same actions."""

from __future__ import annotations

from typing import Any

import numpy as np

from worldsim.data.episodes import Episodes
from worldsim.evaluate.data import Clips
from worldsim.evaluate.dreams import Dreams, encode
from worldsim.evaluate.effort import Effort
from worldsim.evaluate.metrics import interval
from worldsim.world import World


def measure_rewards(world: World, store: Episodes, clips: Clips, effort: Effort) -> dict[str, Any]:
    """Correlation and mean error of predicted rewards, teacher-forced and summed over dreams, with intervals.

    `clips` are of `store`; the first `effort.context` rows of each begin its dream, the others are predicted.
    "teacher_forced" compares single steps, each predicted from true frames; "dream" compares the sums over all
    `steps` of a clip, dreamed with the recorded actions. Units are those of the rewards; a correlation is NaN where
    all rewards, or all predictions, are the same.
    """
    context = effort.context
    real = np.stack([store.read("reward", span.start + context, span.stop) for span in clips.spans])  # (N, steps)
    latents = encode(world, clips.frames)  # (N, T, C, h, w)
    forced, dreamed = _begin(world, clips, latents, effort), _begin(world, clips, latents, effort)
    rows = range(context, latents.shape[1])
    said = np.stack([forced.observe(latents[:, t], clips.actions[:, t]).reward for t in rows], axis=1)
    earned = np.stack([dreamed.step(clips.actions[:, t]).reward for t in rows], axis=1)
    return {
        "steps": real.shape[1],
        "clips": len(real),
        "real_mean": float(real.mean()),
        "real_deviation": float(real.std()),
        "teacher_forced": compare_rewards(real, said),
        "dream": compare_rewards(real.sum(1, keepdims=True), earned.sum(1, keepdims=True)),
    }


def compare_rewards(real: np.ndarray, predicted: np.ndarray) -> dict[str, Any]:
    """Correlation and mean of predicted less real, rewards (clips, values) both; resampled by clips."""
    error = (predicted - real).mean(axis=1, dtype=np.float64)  # (clips,)

    def correlated(i: np.ndarray) -> float:
        return correlation(real[i].ravel(), predicted[i].ravel())

    everything = np.arange(len(real))
    return {
        "correlation": correlated(everything),
        "correlation_ci": interval(correlated, len(real)),
        "bias": float(error.mean()),
        "bias_ci": interval(lambda i: float(error[i].mean()), len(real)),
    }


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's, of two arrays (N,); NaN where one of them does not vary."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt(np.square(a).sum() * np.square(b).sum()))
    return float((a * b).sum()) / size if size > 1e-12 else float("nan")


def _begin(world: World, clips: Clips, latents: Any, effort: Effort) -> Dreams:
    context, seeds = effort.context, range(effort.seed, effort.seed + len(clips.spans))
    return Dreams(world, latents[:, :context], clips.actions[:, 1:context], clips.ages, seeds)
