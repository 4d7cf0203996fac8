"""Bright yellow-white blobs in frames of *take cover*: fireballs, and the explosions they end in.

Nothing else there is bright: walls, floor and monsters stay below 151 red and 124 green. Tuned on recordings
of other seeds than any held-out one. All arrays of a `Blobs` have one entry a blob, in the order of the
frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

RED, GREEN = 165, 135  # a pixel is bright above both
MIN_AREA = 2  # pixels; a fireball leaves the monster's hand at about 2 by 3
LARGE = 250  # pixels of a blob that swallows the pieces inside its box: explosions are rings and shreds


@dataclass(frozen=True)
class Blobs:
    """K blobs found in N frames."""

    frame: np.ndarray  # (K,) int64, 0..N-1, ascending
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
        return Blobs(self.frame[which], self.area[which], self.box[which])


def find_blobs(frames: np.ndarray) -> Blobs:
    """Connected bright areas of frames (N, H, W, 3) uint8; diagonal neighbours are connected."""
    bright = (frames[..., 0] > RED) & (frames[..., 1] > GREEN)
    within = np.zeros((3, 3, 3), bool)
    within[1] = True  # neighbours in a frame; none in the frames before and after
    labels, count = ndimage.label(bright, within)
    places = ndimage.find_objects(labels)
    area = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    box = [(x.start, y.start, x.stop, y.stop) for _, y, x in places]
    frame = np.array([t.start for t, _, _ in places], np.int64)
    blobs = _swallow(Blobs(frame, area, np.array(box, np.int64).reshape(-1, 4)))
    return blobs[blobs.area >= MIN_AREA]


def count_blobs(frames: np.ndarray) -> np.ndarray:
    """Blobs in each of the frames (N, H, W, 3) uint8: (N,) int64."""
    return np.bincount(find_blobs(frames).frame, minlength=len(frames))


def _swallow(blobs: Blobs) -> Blobs:
    """Give the pieces whose middle lies in a large blob's box to that blob."""
    area, gone = blobs.area.copy(), np.zeros(len(blobs.area), bool)
    centre = blobs.centre
    for big in np.flatnonzero(blobs.area >= LARGE):
        x0, y0, x1, y1 = blobs.box[big]
        inside = (centre[:, 0] >= x0) & (centre[:, 0] < x1) & (centre[:, 1] >= y0) & (centre[:, 1] < y1)
        pieces = inside & (blobs.frame == blobs.frame[big]) & (blobs.area < blobs.area[big]) & ~gone
        if not gone[big]:
            area[big] += blobs.area[pieces].sum()
            gone |= pieces
    return Blobs(blobs.frame, area, blobs.box)[~gone]
