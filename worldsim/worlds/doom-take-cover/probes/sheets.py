"""Contact sheets of fireballs: close-ups, and what the detector sees."""

from __future__ import annotations

import numpy as np

from worldsim.io.media import enlarge

from .blobs import find_blobs

CLIPS = 6  # shown
EVERY = 8  # steps between the frames of a clip
CLOSE_UP = (24, 32)  # height and width of a cut-out around a fireball
CLOSE_UPS = 16  # in a row
MARKED = 8  # frames in a row of what the detector sees
COLOUR = (0, 255, 255)

Pairs = list[tuple[np.ndarray, np.ndarray]]  # real and dreamed clips, (T, H, W, 3) uint8 each


def close_ups(pairs: Pairs) -> list[np.ndarray]:
    """Two rows of real fireballs above two of dreamed ones, enlarged; a side without any has no rows."""
    real, dreamed = ([pair[side] for pair in pairs] for side in (0, 1))
    rows = [_cut_out(clips, turn) for clips, turn in ((real, 0), (real, 1), (dreamed, 0), (dreamed, 1))]
    return [enlarge(row, 4) for row in rows if len(row)]


def detections(pairs: Pairs) -> list[np.ndarray]:
    """What the detector marks, real above dreamed."""
    return [_mark(clip[::EVERY][:MARKED]) for pair in pairs[:CLIPS] for clip in pair]


def _cut_out(clips: list[np.ndarray], turn: int) -> np.ndarray:
    """Cut-outs around blobs, spread over the clips: (CLOSE_UPS or fewer, *CLOSE_UP, 3)."""
    height, width = CLOSE_UP
    found = []
    for clip in clips:
        blobs = find_blobs(clip)
        for k in np.linspace(0, len(blobs.area) - 1, 12).astype(int) if len(blobs.area) else ():
            x, y = blobs.centre[k]
            left = int(np.clip(x - width / 2, 0, max(clip.shape[2] - width, 0)))
            top = int(np.clip(y - height / 2, 0, max(clip.shape[1] - height, 0)))
            found.append(clip[blobs.frame[k], top : top + height, left : left + width])
    chosen = np.random.default_rng(turn).permutation(len(found))[:CLOSE_UPS]
    return np.array([found[i] for i in chosen])


def _mark(clip: np.ndarray) -> np.ndarray:
    """Draw the box of every blob, at twice the size."""
    blobs, large = find_blobs(clip), enlarge(clip, 2)
    for t, (x0, y0, x1, y1) in zip(blobs.frame, 2 * blobs.box, strict=True):
        top, left = max(y0 - 1, 0), max(x0 - 1, 0)
        large[t, top : y1 + 1, [left, min(x1, large.shape[2] - 1)]] = COLOUR
        large[t, [top, min(y1, large.shape[1] - 1)], left : x1 + 1] = COLOUR
    return large
