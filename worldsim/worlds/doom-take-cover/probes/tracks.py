"""Blobs followed from frame to frame: when each came and went."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .blobs import Blobs

GAP = 2  # frames that a blob may be missed for, behind a monster for instance
REACH = 7.0  # pixels that a small blob moves in a frame at most; a large one moves half its diameter more
MIN_SIGHTINGS = 3  # a blob seen less often is noise


@dataclass(frozen=True)
class Tracks:
    """M blobs that were followed."""

    first: np.ndarray  # (M,) int64, frame of the first sighting
    last: np.ndarray  # (M,) int64


@dataclass
class _Track:
    first: int
    last: int
    x: float
    y: float
    size: float
    sightings: int = field(default=1)

    def see(self, t: int, x: float, y: float, size: float) -> None:
        self.last, self.x, self.y, self.size = t, x, y, size
        self.sightings += 1


def follow(blobs: Blobs) -> Tracks:
    """Join the blobs of successive frames to tracks, nearest first."""
    alive: list[_Track] = []
    done: list[_Track] = []
    for t in np.unique(blobs.frame).tolist():
        done += [track for track in alive if track.last < t - 1 - GAP]
        alive = [track for track in alive if track.last >= t - 1 - GAP]
        now = blobs[blobs.frame == t]
        places = [(float(x), float(y), float(d)) for (x, y), d in zip(now.centre, now.diameter, strict=True)]
        matched = _match(alive, places, t)
        for k, place in enumerate(places):
            if k in matched:
                alive[matched[k]].see(t, *place)
            else:
                alive.append(_Track(t, t, *place))
    kept = [track for track in (*done, *alive) if track.sightings >= MIN_SIGHTINGS]
    return Tracks(np.array([k.first for k in kept], np.int64), np.array([k.last for k in kept], np.int64))


def _match(tracks: list[_Track], places: list[tuple[float, float, float]], t: int) -> dict[int, int]:
    """Which track each place continues: place -> track, greedily by distance."""
    pairs = []
    for i, track in enumerate(tracks):
        for k, (x, y, size) in enumerate(places):
            distance = float(np.hypot(x - track.x, y - track.y))
            if distance <= (REACH + max(track.size, size) / 2) * (t - track.last):
                pairs.append((distance, i, k))
    matched: dict[int, int] = {}
    for _, i, k in sorted(pairs):
        if k not in matched and i not in matched.values():
            matched[k] = i
    return matched
