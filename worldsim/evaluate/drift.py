"""Whether a long dream stays sharp, alive and like the game: windows of one run without a reset.

No pretrained network is used. The features of a frame are simple and fixed: the world's own encoder applied
to the decoded frame (mean and spread of every latent channel over the grid), a histogram of each colour,
and a histogram of gradient sizes. Each is scaled by its spread over real frames; the distance of a window to
real frames is the Fréchet distance of the two clouds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from worldsim.data.episodes import Episodes
from worldsim.evaluate.data import choose_spans, read_clips
from worldsim.evaluate.dreams import Dreams, decode, encode
from worldsim.evaluate.effort import Effort
from worldsim.evaluate.metrics import frechet_distance, gradient, interval, laplacian_variance, ratio
from worldsim.world import World

COLOUR_EDGES = np.array([0, 48, 80, 120, 180, 256])
GRADIENT_EDGES = np.array([0, 0.01, 0.03, 0.1, 0.3, 2.0])
FROZEN = 0.1  # a step is frozen if the frame changes by less than this share of a real step's median change


@dataclass(frozen=True)
class DriftResult:
    """The table and the frames of a contact sheet."""

    table: dict[str, Any]
    sheet: np.ndarray  # (worlds, windows + 1, H, W, 3) uint8: after the first step and at the end of every window


@dataclass(frozen=True)
class _Looks:
    """Figures of looked-at frames; the axes are worlds, looks (and features)."""

    sharpness: np.ndarray  # mean gradient
    focus: np.ndarray  # variance of the Laplacian
    change: np.ndarray  # mean absolute change from the step before, in [0, 1]
    features: np.ndarray  # (..., D)

    def __getitem__(self, key: Any) -> _Looks:
        return _Looks(self.sharpness[key], self.focus[key], self.change[key], self.features[key])


def measure_drift(world: World, store: Episodes, actions: np.ndarray, effort: Effort) -> DriftResult:
    """Dream `actions` (worlds, steps, ...) on without a reset, endings ignored, from held-out contexts."""
    real = _look_at_real(world, store, effort)
    windows, sheet = _dream(world, store, actions, effort)
    figures = _figures(real)
    table: dict[str, Any] = {"steps": actions.shape[1], "window": effort.drift_window, "worlds": len(actions)}
    for name in ("sharpness", "laplacian_variance", "feature_distance"):

        def last_over_first(rows: np.ndarray, name: str = name) -> float:
            return ratio(figures[name](windows[-1][rows]), figures[name](windows[0][rows]))

        table[f"{name}_ratio"] = last_over_first(np.arange(len(actions)))
        table[f"{name}_ratio_ci"] = interval(last_over_first, len(actions))
    # Beside the first window, which may be blurred already, the last one is compared with real frames.
    for name in ("sharpness", "laplacian_variance"):
        table[f"{name}_over_real"] = ratio(figures[name](windows[-1]), figures[name](real))
    by_window = [{name: figure(w) for name, figure in figures.items()} for w in windows]
    table["frozen_share"] = float(np.mean([w["frozen_share"] for w in by_window]))
    half = len(real.sharpness) // 2
    table["real"] = {name: figure(real) for name, figure in figures.items()}
    # The distance between some real frames and others, so that the numbers have a scale.
    table["real"]["feature_distance"] = _figures(real[:half])["feature_distance"](real[half:])
    table["windows"] = [{"first_step": 1 + k * effort.drift_window, **w} for k, w in enumerate(by_window)]
    return DriftResult(table, sheet)


def _figures(real: _Looks) -> dict[str, Callable[[_Looks], float]]:
    """The figures of a window, by name; some compare with real frames."""
    scale = real.features.std((0, 1)) + 0.01  # shares and unit latents; some hardly vary in real frames
    still = FROZEN * float(np.median(real.change))
    cloud = (real.features / scale).reshape(-1, len(scale))
    return {
        "sharpness": lambda looks: float(looks.sharpness.mean()),
        "laplacian_variance": lambda looks: float(looks.focus.mean()),
        "feature_distance": lambda looks: frechet_distance((looks.features / scale).reshape(-1, len(scale)), cloud),
        "change": lambda looks: float(looks.change.mean()),
        "frozen_share": lambda looks: float((looks.change < still).mean()),
    }


def _dream(world: World, store: Episodes, actions: np.ndarray, effort: Effort) -> tuple[list[_Looks], np.ndarray]:
    """The looks of every window, and frames for the sheet."""
    count, steps = actions.shape[:2]
    spans = choose_spans(store, count, effort.context, effort.seed)
    clips = read_clips(store, [spans[i % len(spans)] for i in range(count)])
    dreams = Dreams(world, encode(world, clips.frames), clips.actions[:, 1:], clips.ages, range(count))
    before = clips.frames[:, -1]
    window, every = effort.drift_window, effort.drift_every
    looks: list[list[_Looks]] = [[] for _ in range(steps // window)]
    sheet = []
    for t in tqdm(range(len(looks) * window), desc="drift"):
        latents = dreams.step(actions[:, t]).latents[:, 0]
        if t % every == every - 2 or t == 0:
            before = decode(world, latents)
        if t % every == every - 1:
            now = decode(world, latents)
            looks[t // window].append(_look(world, before, now))
        if t == 0 or t % window == window - 1:
            sheet.append(before if t == 0 else now)
    return [_join(window_looks) for window_looks in looks], np.stack(sheet, axis=1)


def _look_at_real(world: World, store: Episodes, effort: Effort) -> _Looks:
    """Pairs of successive real frames, as many as of two windows; the first axis is the episode's turn."""
    per_world = effort.drift_window // effort.drift_every
    spans = choose_spans(store, 2 * effort.drift_worlds * per_world, 2, effort.seed)
    pairs = read_clips(store, spans).frames
    looks = _look(world, pairs[:, 0], pairs[:, 1])
    return looks[:, None]


def _look(world: World, before: np.ndarray, now: np.ndarray) -> _Looks:
    change = np.abs(now.astype(np.int16) - before).mean((1, 2, 3)) / 255
    edges = gradient(now)
    return _Looks(edges.mean((1, 2)), laplacian_variance(now), change, _features(world, now, edges))


def _features(world: World, frames: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """(N, H, W, 3) and their gradients -> (N, D)."""
    latents = encode(world, frames).float().cpu().numpy()
    colours = [_histogram(frames[..., c], COLOUR_EDGES) for c in range(3)]
    parts = [latents.mean((2, 3)), latents.std((2, 3)), *colours, _histogram(edges, GRADIENT_EDGES)]
    return np.concatenate(parts, axis=1)


def _histogram(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Shares of each frame's values in the bins: (N, H, W) -> (N, bins - 1); the last follows from them."""
    bins = np.digitize(values.reshape(len(values), -1), edges[1:-1])
    return np.stack([(bins == k).mean(1) for k in range(len(edges) - 2)], axis=1)


def _join(looks: list[_Looks]) -> _Looks:
    """One after another along axis 1."""
    return _Looks(*(np.stack([getattr(look, n) for look in looks], axis=1) for n in _Looks.__annotations__))
