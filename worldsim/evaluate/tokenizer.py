"""What the tokenizer keeps of real frames: the ceiling of everything that is dreamed."""

from __future__ import annotations

from typing import Any

import numpy as np
from tqdm import tqdm

from worldsim.data.episodes import Episodes
from worldsim.evaluate.data import choose_spans
from worldsim.evaluate.dreams import decode, encode
from worldsim.evaluate.effort import Effort
from worldsim.evaluate.metrics import interval, psnr, ratio, square_error
from worldsim.world import World

MOVING = 0.1  # a pixel moves where a channel differs so much from the frame before, on the scale [0, 1]


def measure_tokenizer(world: World, store: Episodes, effort: Effort) -> dict[str, Any]:
    """PSNR of reconstructions: of all frames, those between rows included, and of the pixels that move."""
    spans = choose_spans(store, effort.tokenizer_runs, effort.tokenizer_rows, effort.seed)
    sums = np.array([_run_errors(world, _frames(store, s.start, s.stop)) for s in tqdm(spans, desc="tokenizer")])
    error, values, moving_error, moving_values = sums.T  # one entry a run

    def all_pixels(i: np.ndarray) -> float:
        return psnr(ratio(error[i].sum(), values[i].sum()))

    def moving_pixels(i: np.ndarray) -> float:
        return psnr(ratio(moving_error[i].sum(), moving_values[i].sum()))

    everything = np.arange(len(spans))
    return {
        "psnr": all_pixels(everything),
        "psnr_ci": interval(all_pixels, len(spans)),
        "moving_psnr": moving_pixels(everything),
        "moving_psnr_ci": interval(moving_pixels, len(spans)),
        "moving_share": ratio(moving_values.sum(), values.sum()),
        "frames": int(values.sum() / np.prod((world.spec.height, world.spec.width, 3))),
    }


def _frames(store: Episodes, start: int, stop: int) -> np.ndarray:
    """All frames of successive rows in the order they were shown, (N, H, W, 3)."""
    rows = store.read("rgb", start, stop)[:, None]
    if "between" in store.streams:
        rows = np.concatenate([store.read("between", start, stop), rows], axis=1)
    return rows.reshape(-1, *rows.shape[2:])


def _run_errors(world: World, frames: np.ndarray) -> tuple[float, int, float, int]:
    """Sum of square errors and number of values: of all, and of the pixels that moved."""
    error = square_error(frames, decode(world, encode(world, frames)))
    change = np.abs(np.diff(frames.astype(np.int16), axis=0)).max(-1)
    moved = error[1:][change > MOVING * 255]  # (pixels, 3)
    return float(error.sum()), error.size, float(moved.sum()), moved.size
