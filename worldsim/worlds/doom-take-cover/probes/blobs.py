"""Bright yellow-white blobs in pictures of *take cover*: fireballs, and the explosions they end in.

Nothing else there is bright: walls, floor and monsters stay below 151 red and 124 green. Tuned on recordings
of other seeds than any held-out one. All arrays of a `Blobs` have one entry a blob, in the order of the
pictures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RED, GREEN = 165, 135  # a pixel is bright above both
MIN_AREA = 2  # pixels; a fireball leaves the monster's hand at about 2 by 3
LARGE = 250  # pixels of a blob that swallows the pieces inside its box: explosions are rings and shreds


@dataclass(frozen=True)
class Blobs:
    """K blobs found in N pictures."""

    picture: np.ndarray  # (K,) int64, 0..N-1, ascending
    area: np.ndarray  # (K,) int64, bright pixels
    box: np.ndarray  # (K, 4) int64: x0, y0, x1, y1, the last two exclusive

    @property
    def centre(self) -> np.ndarray:
        """Middle of the box, (K, 2) x, y."""
        return (self.box[:, :2] + self.box[:, 2:]) / 2

    @property
    def diameter(self) -> np.ndarray:
        """Diameter of a disc of the same area, (K,) in pixels."""
        return 2 * np.sqrt(self.area / np.pi)

    def __getitem__(self, which: np.ndarray) -> Blobs:
        return Blobs(self.picture[which], self.area[which], self.box[which])


def find_blobs(pictures: np.ndarray) -> Blobs:
    """Connected bright areas of pictures (N, H, W, 3) uint8; diagonal neighbours are connected."""
    bright = (pictures[..., 0] > RED) & (pictures[..., 1] > GREEN)
    padded = np.pad(bright, ((0, 0), (0, 0), (1, 1)))
    edges = np.diff(padded.astype(np.int8), axis=-1)
    starts, stops = (
        np.argwhere(edges == 1),
        np.argwhere(edges == -1),
    )  # runs of bright pixels, in reading order
    if not len(starts):
        return Blobs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 4), np.int64))
    picture, y, x0 = starts.T
    x1 = stops[:, 2]
    _, label = np.unique(_join_runs(picture, y, x0, x1), return_inverse=True)
    count = int(label.max()) + 1
    box = np.full((count, 4), np.iinfo(np.int64).max)
    box[:, 2:] = 0
    np.minimum.at(box[:, 0], label, x0)
    np.minimum.at(box[:, 1], label, y)
    np.maximum.at(box[:, 2], label, x1)
    np.maximum.at(box[:, 3], label, y + 1)
    first = np.unique(label, return_index=True)[1]
    area = np.bincount(label, weights=x1 - x0).astype(np.int64)
    blobs = _swallow(Blobs(picture[first], area, box))
    return blobs[blobs.area >= MIN_AREA]


def _join_runs(picture: np.ndarray, y: np.ndarray, x0: np.ndarray, x1: np.ndarray) -> np.ndarray:
    """Label of every run [x0, x1) of row y: the first run of its connected area (union-find)."""
    row = picture * (int(y.max()) + 2) + y  # a gap between pictures, so that none borders on the next
    above_from, above_to = np.searchsorted(row, row - 1, "left"), np.searchsorted(row, row - 1, "right")
    parent = list(range(len(row)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for i, (begin, end) in enumerate(zip(above_from.tolist(), above_to.tolist(), strict=True)):
        for j in range(begin, end):
            if x0[j] <= x1[i] and x1[j] >= x0[i]:
                a, b = sorted((root(i), root(j)))
                parent[b] = a
    return np.array([root(i) for i in range(len(parent))])


def _swallow(blobs: Blobs) -> Blobs:
    """Give the pieces whose middle lies in a large blob's box to that blob."""
    area, gone = blobs.area.copy(), np.zeros(len(blobs.area), bool)
    centre = blobs.centre
    for big in np.flatnonzero(blobs.area >= LARGE):
        x0, y0, x1, y1 = blobs.box[big]
        inside = (centre[:, 0] >= x0) & (centre[:, 0] < x1) & (centre[:, 1] >= y0) & (centre[:, 1] < y1)
        pieces = inside & (blobs.picture == blobs.picture[big]) & (blobs.area < blobs.area[big]) & ~gone
        if not gone[big]:
            area[big] += blobs.area[pieces].sum()
            gone |= pieces
    return Blobs(blobs.picture, area, blobs.box)[~gone]
