"""Whether dreams obey: a probe that learned to tell the action from real frames looks at dreams."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from worldsim.data.episodes import Episodes
from worldsim.errors import InvalidInput
from worldsim.evaluate.data import Span, shown_spans
from worldsim.evaluate.effort import Effort
from worldsim.evaluate.horizons import HorizonResult
from worldsim.evaluate.metrics import interval, luma
from worldsim.evaluate.rewards import correlation
from worldsim.spec import ActionSpec
from worldsim.world import World

SEEN = 3  # frames that the probe sees: with two it could not tell braking from speeding up
REACH = {"across": 8, "up": 4}  # pixels by which a part of the frame is looked for in the next one
CELL = 16  # pixels, side of such a part
HIDDEN = 64
BATCH = 128
RATE = 1e-3


def measure_actions(
    world: World, store: Episodes, horizons: HorizonResult, probe_store: Episodes | None, effort: Effort
) -> dict[str, Any]:
    """How well the probe tells actions from real clips of `store` and from their dreams, both with the recorded ones.

    Of discrete actions that is the share of steps told right (accuracy), of continuous ones the correlation of each
    dimension told with the one played (NaN where it does not vary), and the mean of these over dimensions.

    The probe learns from `probe_store`; without one it learns from every other episode of `store`, and only
    clips of the rest are the test. Raises InvalidInput where there are too few episodes for that.
    """
    clips, context = horizons.clips, effort.context
    tested, spans = split(store, clips.spans, probe_store)
    actions = world.config.actions
    probe = _train(probe_store or store, spans, actions, effort)
    truth = clips.actions[tested, context:]  # (clips, steps) or (clips, steps, A)
    table: dict[str, Any] = {}
    for name, following in (("real", clips.frames[tested, context:]), ("dream", horizons.dreamed[tested])):
        frames = np.concatenate([clips.frames[tested, context - SEEN + 1 : context], following], axis=1)
        told = np.stack([_guess(probe, clip) for clip in frames])  # (clips, steps, outputs)
        table |= _accuracy(name, told, truth - actions.start) if actions.discrete else _correlations(name, told, truth)
    if actions.discrete:
        counts = np.bincount((truth - actions.start).ravel())
        table["most_frequent_action"] = float(counts.max() / truth.size)
    return {**table, "clips": len(tested), "steps": int(np.prod(truth.shape[:2]))}


def _accuracy(name: str, told: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    right = told.argmax(-1) == truth  # (clips, steps)

    def accuracy(i: np.ndarray) -> float:
        return float(right[i].mean())

    everything = np.arange(len(right))
    return {f"{name}_accuracy": accuracy(everything), f"{name}_accuracy_ci": interval(accuracy, len(right))}


def _correlations(name: str, told: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    def of_dimension(k: int, i: np.ndarray) -> float:
        return correlation(told[i, :, k].ravel(), truth[i, :, k].ravel())

    def mean(i: np.ndarray) -> float:
        values = np.array([of_dimension(k, i) for k in range(truth.shape[2])])
        return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")

    everything = np.arange(len(told))
    return {
        f"{name}_correlation": mean(everything),
        f"{name}_correlation_ci": interval(mean, len(told)),
        f"{name}_correlations": [of_dimension(k, everything) for k in range(truth.shape[2])],
    }


def split(store: Episodes, clips: list[Span], probe_store: Episodes | None) -> tuple[list[int], list[Span]]:
    """Which of the clips of `store` test the probe, and what it learns from; raises InvalidInput for too few."""
    apart = probe_store is not None
    tested = [k for k, span in enumerate(clips) if apart or span.episode % 2]
    spans = [s for s in shown_spans(probe_store or store) if len(s) >= SEEN and (apart or s.episode % 2 == 0)]
    if not tested or not spans:
        raise InvalidInput(
            f"episode store {str(store.path)!r} has too few long episodes to train the action probe on some "
            "and test it on others; give --probe-data or record more steps"
        )
    return tested, spans


def _train(store: Episodes, spans: list[Span], actions: ActionSpec, effort: Effort) -> nn.Module:
    """Fit the probe to the rows of some of the spans."""
    features, taken, total = [], [], 0
    for index in np.random.default_rng(effort.seed).permutation(len(spans)):
        span = spans[index]
        features.append(_features(store.read("rgb", span.start, span.stop)))
        taken.append(store.read("action", span.start + SEEN - 1, span.stop))
        total += len(taken[-1])
        if total >= effort.probe_rows:
            break
    x, y = torch.cat(features), _targets(np.concatenate(taken), actions)
    with torch.random.fork_rng():
        torch.manual_seed(effort.seed)
        probe = nn.Sequential(nn.Linear(x.shape[1], HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, actions.n or y.shape[1]))
    optimizer = torch.optim.AdamW(probe.parameters(), lr=RATE, weight_decay=0.1)
    generator = torch.Generator().manual_seed(effort.seed)
    for step in tqdm(range(effort.probe_steps), desc="action probe"):
        for group in optimizer.param_groups:
            group["lr"] = RATE * (1 - step / effort.probe_steps)
        rows = torch.randint(len(x), (BATCH,), generator=generator)
        loss = (F.cross_entropy if actions.discrete else F.mse_loss)(probe(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return probe


def _targets(taken: np.ndarray, actions: ActionSpec) -> Tensor:
    """Classes (N,) int64, or each dimension normalised (N, A) float32, which changes no correlation."""
    if actions.discrete:
        return torch.from_numpy(taken - actions.start)
    values = torch.from_numpy(taken).float()
    return (values - values.mean(0)) / values.std(0).clamp(min=1e-6)


@torch.inference_mode()
def _guess(probe: nn.Module, frames: np.ndarray) -> np.ndarray:
    """(T, H, W, 3) uint8 -> what is told of the rows from SEEN - 1 on, (T - SEEN + 1, logits or dimensions)."""
    return probe(_features(frames)).numpy()


def _features(frames: np.ndarray) -> Tensor:
    """How well each part of a frame fits the next one at every shift: (T, H, W, 3) -> (T - SEEN + 1, D).

    Motion lies open in these; a convolution would have to learn first to match frames, from little data.
    """
    across, up = REACH["across"], REACH["up"]
    grey = torch.from_numpy(luma(frames))[:, None]
    height, width = grey.shape[2:]
    before, after = grey[:-1], F.pad(grey[1:], (across, across, up, up), mode="replicate")
    shifts = [(0, x) for x in range(-across, across + 1)] + [(y, 0) for y in range(-up, up + 1) if y]
    costs = []
    for y, x in shifts:
        moved = after[:, :, up + y : up + y + height, across + x : across + x + width]
        costs.append(F.avg_pool2d((before - moved).abs(), CELL))
    logs = torch.log(torch.cat(costs, dim=1) + 0.01)  # (T - 1, shifts, cells down, cells across)
    steps = (logs - logs.mean(1, keepdim=True)).flatten(1)
    return steps.unfold(0, SEEN - 1, 1).flatten(1)
