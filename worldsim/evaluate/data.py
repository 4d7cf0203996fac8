"""Held-out episodes as the measurements take them: checked against the world, cut into clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from worldsim.config import WorldConfig
from worldsim.data.episodes import Episodes
from worldsim.errors import InvalidInput


@dataclass(frozen=True)
class Span:
    """Some rows of one episode: [start, stop) of the store."""

    episode: int
    start: int
    stop: int
    age: int = 0  # rows of the episode before it

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Clips:
    """N clips of T rows; the action of a row led to it."""

    spans: list[Span]
    frames: np.ndarray  # (N, T, H, W, 3) uint8
    actions: np.ndarray  # (N, T) int64 or (N, T, A) float32
    ages: np.ndarray  # (N,) of their first rows: steps since the beginning of the episode


def open_held_out(path: Path, config: WorldConfig) -> Episodes:
    """Open a store and check that it shows what the world was made to show; raises InvalidInput if not."""
    store = Episodes.open(path)
    between = store.meta.streams["between"].shape[0] if "between" in store.streams else 0
    checks = [
        ("source", store.meta.source, config.source.name),
        (
            "frame size",
            (store.meta.height, store.meta.width),
            (config.tokenizer.height, config.tokenizer.width),
        ),
        ("actions", store.meta.actions, config.actions),
        ("steps a second", store.meta.fps, config.source.fps),
        ("frames between rows", between, config.dynamics.between),
    ]
    for what, found, wanted in checks:
        if found != wanted:
            raise InvalidInput(
                f"episode store {str(path)!r} does not fit world {config.name!r}: its {what} is {found}, "
                f"the world's is {wanted}; record {config.source.name} as its config.json says"
            )
    if not len(store):
        raise InvalidInput(f"episode store {str(path)!r} holds no finished episode; record more steps")
    store.check_numbers()
    return store


def shown_spans(store: Episodes) -> list[Span]:
    """Each episode without its last row where the game ended: some simulators give no frame of that row."""
    terminated = store.read("terminated", 0, store.num_steps)
    ends = [int(e) for e in store.ends]
    starts = [0, *ends[:-1]]
    return [Span(i, a, b - int(terminated[b - 1])) for i, (a, b) in enumerate(zip(starts, ends, strict=True))]


def choose_spans(store: Episodes, count: int, rows: int, seed: int) -> list[Span]:
    """Up to `count` spans of `rows` rows each at random places, as many different episodes as there are.

    Raises InvalidInput if no episode is that long.
    """
    whole = [span for span in shown_spans(store) if len(span) >= rows]
    if not whole:
        raise InvalidInput(
            f"no episode of {str(store.path)!r} has {rows} rows, which this measurement needs; record longer episodes"
        )
    rng = np.random.default_rng([seed, rows])
    order = [int(i) for i in rng.permutation(len(whole))]
    chosen: list[Span] = []
    # Go round the episodes; a second span of an episode may overlap the first, so a small store gives fewer.
    for turn in range(count):
        span = whole[order[turn % len(order)]]
        if turn // len(order) > len(span) // rows:
            continue
        start = int(rng.integers(span.start, span.stop - rows + 1))
        chosen.append(Span(span.episode, start, start + rows, start - span.start))
    return chosen


def read_clips(store: Episodes, spans: Sequence[Span]) -> Clips:
    """Frames and actions of spans of equal length."""
    frames = np.stack([store.read("rgb", s.start, s.stop) for s in spans])
    actions = np.stack([store.read("action", s.start, s.stop) for s in spans])
    return Clips(list(spans), frames, actions, np.array([s.age for s in spans]))
