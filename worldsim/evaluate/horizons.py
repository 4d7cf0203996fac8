"""How long a dream stays with the real game when it gets the recorded actions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from worldsim.data.episodes import Episodes
from worldsim.errors import InvalidInput
from worldsim.evaluate.data import Clips, choose_spans, read_clips
from worldsim.evaluate.dreams import decode, dream_along, encode
from worldsim.evaluate.effort import Effort
from worldsim.evaluate.metrics import interval, mean_square_error, psnr, ssim
from worldsim.world import World


@dataclass(frozen=True)
class HorizonResult:
    """The table, and what sheets and the action probe are made from."""

    table: dict[str, dict[str, Any]]
    curves: dict[str, list[float]]  # PSNR by step, from 1
    clips: Clips  # real rows, the context first
    dreamed: np.ndarray  # (N, T - context, H, W, 3) uint8, with the recorded actions


def measure_horizons(world: World, store: Episodes, effort: Effort) -> HorizonResult:
    """PSNR and SSIM by horizon, beside copying the last real frame and beside another clip's actions."""
    context, horizons = effort.context, effort.horizons
    clips = read_clips(store, choose_spans(store, effort.clips, context + max(horizons), effort.seed))
    if len(clips.spans) < 2:
        raise InvalidInput(
            f"episode store {str(store.path)!r} has one clip of {clips.frames.shape[1]} rows, and the "
            "actions of another one are needed too; record more steps"
        )
    real, copied = clips.frames[:, context:], clips.frames[:, context - 1]
    index = [h - 1 for h in horizons]
    along: dict[str, Any] = {"ages": clips.ages, "context": context, "seed": effort.seed}
    dreamed = decode(world, dream_along(world, clips.frames, clips.actions, **along))
    other = clips.actions.copy()
    other[:, context:] = np.roll(other[:, context:], 1, axis=0)  # the clip before is of another episode
    shuffled = decode(world, dream_along(world, clips.frames, other, **along)[:, index])
    ceiling = decode(world, encode(world, real[:, index]))
    table = {
        str(h): {
            **compare(real[:, i], dreamed[:, i], copied, shuffled[:, k], ceiling[:, k]),
            "seconds": h / world.config.source.fps,
            "clips": len(real),
        }
        for k, (h, i) in enumerate(zip(horizons, index, strict=True))
    }
    steps = range(real.shape[1])
    curves = {
        "dream": [psnr(mean_square_error(real[:, t], dreamed[:, t])) for t in steps],
        "copy of the last frame": [psnr(mean_square_error(real[:, t], copied)) for t in steps],
    }
    return HorizonResult(table, curves, clips, dreamed)


def compare(
    real: np.ndarray, dreamed: np.ndarray, copied: np.ndarray, shuffled: np.ndarray, ceiling: np.ndarray
) -> dict[str, Any]:
    """Figures of one horizon: frames (N, H, W, 3) uint8 each."""
    rivals = {"copy": copied, "shuffled": shuffled, "tokenizer": ceiling}
    errors = {name: mean_square_error(real, frames) for name, frames in rivals.items()}
    own, likeness = mean_square_error(real, dreamed), ssim(real, dreamed)
    figures: dict[str, Any] = {
        "psnr": psnr(own),
        "psnr_ci": interval(lambda i: psnr(own[i]), len(own)),
        "ssim": float(likeness.mean()),
        "ssim_ci": interval(lambda i: float(likeness[i].mean()), len(own)),
        "copy_ssim": float(ssim(real, copied).mean()),
    }
    for name, error in errors.items():

        def gap(i: np.ndarray, error: np.ndarray = error) -> float:
            return psnr(own[i]) - psnr(error[i])

        figures[f"{name}_psnr"] = psnr(error)
        figures[f"above_{name}"] = gap(np.arange(len(own)))
        figures[f"above_{name}_ci"] = interval(gap, len(own))
        # One explosion that comes a little late outweighs in `gap` all that fifty other clips get right.
        gains = 10 * np.log10(np.maximum(error, 1e-10) / np.maximum(own, 1e-10))
        figures[f"median_above_{name}"] = float(np.median(gains))
        figures[f"median_above_{name}_ci"] = _median_interval(gains)
    return figures


def _median_interval(values: np.ndarray) -> list[float]:
    return interval(lambda i: float(np.median(values[i])), len(values))
