"""Fireballs of *take cover*: are there as many in dreams as in games, as large, and do they last as long?

Each clip is dreamed along with its recorded actions from the same context. A pair is compared up to where the
dream ends, since what follows an ending is nothing the world was trained on; so both sides are seen at the
same ages.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from tqdm import tqdm

from worldsim.data.episodes import Episodes
from worldsim.errors import InvalidInput
from worldsim.evaluate.data import Span, shown_spans
from worldsim.evaluate.dreams import Dreams, decode, encode
from worldsim.evaluate.effort import Effort
from worldsim.evaluate.metrics import interval, ratio
from worldsim.evaluate.probes import CountingProbe, ProbeContext, ProbeResult
from worldsim.io.text import interval_text, table
from worldsim.world import World

from .blobs import Blobs, count_blobs, find_blobs
from .sheets import close_ups, detections
from .tracks import follow

CLIPS, QUICK_CLIPS = 72, 3
STEPS, QUICK_STEPS = 200, 40  # of a clip at most
MIN_STEPS = 40  # of a clip; a fireball takes about 16 from a monster to the player
BATCH = 24
RECONSTRUCT_EVERY = 5  # of the clips are also looked at through the tokenizer, to tell its losses from the dream's
MARGIN = 2  # pixels by which a blob may miss a recorded box
MIN_BOX = (1.5, 2)  # width and height in pixels of a box that must be found: less is a sliver behind something
# What is counted of every clip.
COLUMNS = ("steps", "appearances", "blobs", "area", "diameter", "finished", "lifetime")
FIGURES = {
    "appearances_per_100_steps": ("appearances", "steps", 100.0),
    "visible": ("blobs", "steps", 1.0),
    "mean_area": ("area", "blobs", 1.0),
    "mean_diameter": ("diameter", "blobs", 1.0),
    "lifetime": ("lifetime", "finished", 1.0),
}


class Fireballs(CountingProbe):
    """Counts, sizes and lifetimes in real clips, in reconstructions of some of them, and in dreams."""

    name = "fireballs"

    def count(self, frames: np.ndarray) -> np.ndarray:
        """Fireballs, and the explosions that they end in."""
        return count_blobs(frames)

    def check(self, context: ProbeContext) -> None:
        """See that some episode is long enough for a clip."""
        choose_clips(context.episodes, context.effort)

    def measure(self, context: ProbeContext) -> ProbeResult:
        """Dream every clip along; figures are means over all frames of a side."""
        world, store, effort = context.world, context.episodes, context.effort
        spans = choose_clips(store, effort)
        real, dream, again_real, again = _Side(), _Side(), _Side(), _Side()
        shown: list[tuple[np.ndarray, np.ndarray]] = []
        for index, (clip, dreamed) in enumerate(_pairs(world, store, spans, effort)):
            real.add(clip)
            dream.add(dreamed)
            if index % RECONSTRUCT_EVERY == 0:
                again_real.add(clip)
                again.add(decode(world, encode(world, clip)))
                shown.append((clip, dreamed))
        figures: dict[str, Any] = {"clips": len(spans), "steps": int(sum(row[0] for row in real.rows))}
        if "fireball_boxes" in store.streams:
            figures["detector"] = _check_detector(store, spans)
        for name, side in (("real", real), ("dream", dream)):
            figures[name] = {figure: _figure(np.array(side.rows), *parts) for figure, parts in FIGURES.items()}
        figures["ratios"] = _ratios(dream, real)
        figures["tokenizer_ratios"] = _ratios(again, again_real)
        diameters = {name: np.concatenate(s.diameters) for name, s in (("real", real), ("dream", dream))}
        plot = partial(_plot_diameters, diameters=diameters, steps=figures["steps"])
        sheets = {"close-ups": close_ups(shown), "detector": detections(shown)}
        return ProbeResult(figures, _text(figures), sheets, (plot,))


class _Side:
    """What was counted in the clips of one kind."""

    def __init__(self) -> None:
        self.rows: list[tuple[float, ...]] = []  # COLUMNS of every clip
        self.diameters: list[np.ndarray] = []

    def add(self, clip: np.ndarray) -> None:
        blobs = find_blobs(clip)
        self.rows.append(_count(blobs, len(clip)))
        self.diameters.append(blobs.diameter)


def _pairs(world: World, store: Episodes, spans: list[Span], effort: Effort) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Every clip after its context, cut as long as its dream, and the dream: frames (T, H, W, 3) each."""
    for first in tqdm(range(0, len(spans), BATCH), desc="fireballs"):
        batch = spans[first : first + BATCH]
        clips = [store.read("rgb", s.start, s.stop) for s in batch]
        actions = [store.read("action", s.start, s.stop) for s in batch]
        ages = [s.age for s in batch]
        dreams = _dream(world, clips, actions, ages, effort.context, effort.seed + first)
        for clip, dreamed in zip(clips, dreams, strict=True):
            yield clip[effort.context : effort.context + len(dreamed)], dreamed


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
    count, steps = (QUICK_CLIPS, QUICK_STEPS) if effort.quick else (CLIPS, STEPS)
    longest, shortest = effort.context + steps, effort.context + MIN_STEPS
    spans = [
        Span(whole.episode, start, min(start + longest, whole.stop), start - whole.start)
        for whole in shown_spans(store)
        for start in range(whole.start, whole.stop - shortest + 1, steps)
    ]
    if not spans:
        raise InvalidInput(
            f"no episode of {str(store.path)!r} has {shortest} rows, which counting fireballs needs; record more steps"
        )
    if len(spans) > count:
        kept = np.random.default_rng(effort.seed).permutation(len(spans))[:count]
        spans = [spans[i] for i in kept]
    return sorted(spans, key=len)  # clips of one batch are about as long


def _dream(
    world: World, clips: list[np.ndarray], actions: list[np.ndarray], ages: list[int], context: int, seed: int
) -> list[np.ndarray]:
    """Dream every clip along with its actions, up to the dream's end; frames (T, H, W, 3) each."""
    start = encode(world, np.stack([clip[:context] for clip in clips]))
    before = np.stack([a[1:context] for a in actions])
    dreams = Dreams(world, start, before, np.array(ages), range(seed, seed + len(clips)))
    frames: list[list[np.ndarray]] = [[] for _ in clips]
    rows = list(range(len(clips)))
    for t in range(context, max(map(len, clips))):
        drawn = dreams.step(np.stack([actions[row][t] for row in rows]))
        for row, frame in zip(rows, decode(world, drawn.latents[:, 0]), strict=True):
            frames[row].append(frame)
        going_on = [k for k, row in enumerate(rows) if not drawn.ended[k] and t + 1 < len(clips[row])]
        if len(going_on) < len(rows):
            dreams.keep(going_on)
            rows = [rows[k] for k in going_on]
        if not rows:
            break
    return [np.stack(f) for f in frames]


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
    """Precision and recall of the blobs against the boxes that the simulator gave with the real frames."""
    right = found = total_blobs = total_boxes = 0
    for span in spans:
        blobs = find_blobs(store.read("rgb", span.start, span.stop))
        for t, boxes in enumerate(store.read("fireball_boxes", span.start, span.stop)):
            boxes = boxes[~np.isnan(boxes[:, 0])]
            mine = blobs[blobs.frame == t]
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


def _text(figures: dict[str, Any]) -> str:
    ratios, tokenizer = figures["ratios"], figures["tokenizer_ratios"]
    rows = [
        (
            name.replace("_", " "), f"{figures['real'][name]:.2f}", f"{figures['dream'][name]:.2f}",
            f"{ratios[name]:.2f} {interval_text(ratios[f'{name}_ci'], 2)}", f"{tokenizer[name]:.2f}",
        )
        for name in FIGURES
    ]  # fmt: skip
    text = table(("fireballs", "real", "dream", "ratio", "of the tokenizer alone"), rows)
    if "detector" not in figures:
        return text
    found = figures["detector"]
    return (
        f"{text}\nthe detector on real frames: precision {found['precision']:.3f} of {found['blobs']} blobs, "
        f"recall {found['recall']:.3f} of {found['boxes']} boxes"
    )


def _plot_diameters(axes: Any, *, diameters: dict[str, np.ndarray], steps: int) -> None:
    bins = np.geomspace(1.5, 80, 25)
    for name, found in diameters.items():
        axes.hist(found, bins, weights=np.full(len(found), 1 / steps), histtype="step", label=name)
    axes.set(title="fireballs", xlabel="diameter (pixels)", ylabel="visible a frame", xscale="log")
    axes.set_xticks([2, 5, 10, 20, 50], labels=["2", "5", "10", "20", "50"])
    axes.minorticks_off()
    axes.legend()
