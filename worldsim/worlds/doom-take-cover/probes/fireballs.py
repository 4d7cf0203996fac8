"""Fireballs of *take cover*: are there as many in dreams as in games, as large, and do they last as long?

Each clip is dreamed along with its recorded actions from the same context. A pair is compared up to where the
dream ends, since what follows an ending is nothing the world was trained on; so both sides are seen at the
same ages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from worldsim.episodes import Episodes
from worldsim.errors import InvalidInput
from worldsim.evaluate.blobs import Blobs, find_blobs
from worldsim.evaluate.data import Span, shown_spans
from worldsim.evaluate.dreams import Dreams, decode, encode
from worldsim.evaluate.effort import Effort
from worldsim.evaluate.metrics import interval, ratio
from worldsim.evaluate.tracks import follow
from worldsim.world import World

SOURCE = "doom-take-cover"
MIN_STEPS = 40  # of a clip; a fireball takes about 16 from a monster to the player
BATCH = 24
RECONSTRUCT_EVERY = 5  # of the clips are also looked at through the tokenizer, to tell its losses from the dream's
MARGIN = 2  # pixels by which a blob may miss a recorded box
MIN_BOX = (
    1.5,
    2,
)  # width and height in pixels of a box that must be found: less is a sliver behind something
# What is counted of every clip.
COLUMNS = ("steps", "appearances", "blobs", "area", "diameter", "finished", "lifetime")
FIGURES = {
    "appearances_per_100_steps": ("appearances", "steps", 100.0),
    "visible": ("blobs", "steps", 1.0),
    "mean_area": ("area", "blobs", 1.0),
    "mean_diameter": ("diameter", "blobs", 1.0),
    "lifetime": ("lifetime", "finished", 1.0),
}


@dataclass(frozen=True)
class FireballResult:
    """The table, and what pictures and plots show."""

    table: dict[str, Any]
    real: list[np.ndarray]  # some clips, (T, H, W, 3) uint8 each, cut as long as their dreams
    dreamed: list[np.ndarray]
    diameters: dict[str, np.ndarray]


class _Side:
    """What was counted in the clips of one kind."""

    def __init__(self) -> None:
        self.rows: list[tuple[float, ...]] = []  # COLUMNS of every clip
        self.diameters: list[np.ndarray] = []

    def add(self, clip: np.ndarray) -> None:
        blobs = find_blobs(clip)
        self.rows.append(_count(blobs, len(clip)))
        self.diameters.append(blobs.diameter)


def measure_fireballs(world: World, store: Episodes, effort: Effort) -> FireballResult:
    """Counts, sizes and lifetimes in real clips, in reconstructions of some of them, and in dreams."""
    spans = choose_clips(store, effort)
    real, dream, again_real, again = _Side(), _Side(), _Side(), _Side()
    shown: list[tuple[np.ndarray, np.ndarray]] = []
    for first in tqdm(range(0, len(spans), BATCH), desc="fireballs"):
        batch = spans[first : first + BATCH]
        clips = [store.read("rgb", s.start, s.stop) for s in batch]
        actions = [store.read("action", s.start, s.stop) for s in batch]
        ages = [s.age for s in batch]
        dreams = _dream(world, clips, actions, ages, effort.context, effort.seed + first)
        for k, (clip, dreamed) in enumerate(zip(clips, dreams, strict=True)):
            clip = clip[effort.context : effort.context + len(dreamed)]
            real.add(clip)
            dream.add(dreamed)
            if (first + k) % RECONSTRUCT_EVERY == 0:
                again_real.add(clip)
                again.add(decode(world, encode(world, clip)))
                shown.append((clip, dreamed))
    table: dict[str, Any] = {"clips": len(spans), "steps": int(sum(row[0] for row in real.rows))}
    if "fireball_boxes" in store.streams:
        table["detector"] = _check_detector(store, spans)
    for name, side in (("real", real), ("dream", dream)):
        table[name] = {figure: _figure(np.array(side.rows), *parts) for figure, parts in FIGURES.items()}
    table["ratios"] = _ratios(dream, real)
    table["tokenizer_ratios"] = _ratios(again, again_real)
    diameters = {name: np.concatenate(s.diameters) for name, s in (("real", real), ("dream", dream))}
    return FireballResult(table, [r for r, _ in shown], [d for _, d in shown], diameters)


def _ratios(side: _Side, real: _Side) -> dict[str, Any]:
    """Every figure over that of the real clips, with intervals over clips."""
    own, theirs = np.array(side.rows), np.array(real.rows)
    ratios: dict[str, Any] = {}
    for figure, parts in FIGURES.items():

        def of(i: np.ndarray, parts: tuple[str, str, float] = parts) -> float:
            return ratio(_figure(own[i], *parts), _figure(theirs[i], *parts))

        ratios[figure] = of(np.arange(len(own)))
        ratios[f"{figure}_ci"] = interval(of, len(own))
    return ratios


def choose_clips(store: Episodes, effort: Effort) -> list[Span]:
    """Clips that cover the episodes one after another, as many as wanted, spread over the store."""
    longest, shortest = effort.context + effort.fireball_steps, effort.context + MIN_STEPS
    spans = [
        Span(whole.episode, start, min(start + longest, whole.stop), start - whole.start)
        for whole in shown_spans(store)
        for start in range(whole.start, whole.stop - shortest + 1, effort.fireball_steps)
    ]
    if not spans:
        raise InvalidInput(
            f"no episode of {str(store.path)!r} has {shortest} rows, which counting fireballs needs; record more steps"
        )
    if len(spans) > effort.fireball_clips:
        kept = np.random.default_rng(effort.seed).permutation(len(spans))[: effort.fireball_clips]
        spans = [spans[i] for i in kept]
    return sorted(spans, key=len)  # clips of one batch are about as long


def _dream(
    world: World, clips: list[np.ndarray], actions: list[np.ndarray], ages: list[int], context: int, seed: int
) -> list[np.ndarray]:
    """Dream every clip along with its actions, up to the dream's end; pictures (T, H, W, 3) each."""
    start = encode(world, np.stack([clip[:context] for clip in clips]))
    before = np.stack([a[1:context] for a in actions])
    dreams = Dreams(world, start, before, np.array(ages), range(seed, seed + len(clips)))
    pictures: list[list[np.ndarray]] = [[] for _ in clips]
    rows = list(range(len(clips)))
    for t in range(context, max(map(len, clips))):
        drawn = dreams.step(np.stack([actions[row][t] for row in rows]))
        for row, picture in zip(rows, decode(world, drawn.latents[:, 0]), strict=True):
            pictures[row].append(picture)
        going_on = [k for k, row in enumerate(rows) if not drawn.ended[k] and t + 1 < len(clips[row])]
        if len(going_on) < len(rows):
            dreams.keep(going_on)
            rows = [rows[k] for k in going_on]
        if not rows:
            break
    return [np.stack(p) for p in pictures]


def _count(blobs: Blobs, steps: int) -> tuple[float, ...]:
    """COLUMNS of one clip; a lifetime counts only where both its ends were seen."""
    tracks = follow(blobs)
    finished = (tracks.first > 0) & (tracks.last < steps - 1)
    lifetime = (tracks.last - tracks.first + 1)[finished].sum()
    return (
        steps, int((tracks.first > 0).sum()), len(blobs.area), blobs.area.sum(), blobs.diameter.sum(),
        finished.sum(), lifetime,
    )  # fmt: skip


def _figure(counts: np.ndarray, part: str, whole: str, factor: float) -> float:
    return factor * ratio(counts[:, COLUMNS.index(part)].sum(), counts[:, COLUMNS.index(whole)].sum())


def _check_detector(store: Episodes, spans: list[Span]) -> dict[str, Any]:
    """Precision and recall of the blobs against the boxes that the simulator gave with the real pictures."""
    right = found = total_blobs = total_boxes = 0
    for span in spans:
        blobs = find_blobs(store.read("rgb", span.start, span.stop))
        for t, boxes in enumerate(store.read("fireball_boxes", span.start, span.stop)):
            boxes = boxes[~np.isnan(boxes[:, 0])]
            mine = blobs[blobs.picture == t]
            size = boxes[:, 2:] - boxes[:, :2]
            wanted = boxes[(size[:, 0] >= MIN_BOX[0]) & (size[:, 1] >= MIN_BOX[1])]
            right += int(_inside(mine.centre, boxes).sum())
            found += int(_inside((wanted[:, :2] + wanted[:, 2:]) / 2, mine.box).sum())
            total_blobs, total_boxes = total_blobs + len(mine.area), total_boxes + len(wanted)
    return {
        "precision": ratio(right, total_blobs),
        "recall": ratio(found, total_boxes),
        "blobs": total_blobs,
        "boxes": total_boxes,
    }


def _inside(points: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Which of the points (K, 2) lie in any of the boxes (M, 4), or hardly outside: (K,) bool."""
    low, high = boxes[None, :, :2] - MARGIN, boxes[None, :, 2:] + MARGIN
    return np.any(np.all((points[:, None] >= low) & (points[:, None] <= high), axis=-1), axis=-1)
