"""Contact sheets of a study."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from worldsim.evaluate.blobs import find_blobs
from worldsim.evaluate.fireballs import FireballResult
from worldsim.evaluate.study import Study
from worldsim.media import contact_sheet, enlarge, save_picture

CLIPS = 6  # shown
EVERY = 4  # steps between the pictures of a clip
CLOSE_UP = (24, 32)  # height and width of a cut-out around a fireball
CLOSE_UPS = 16  # in a row
MARKED = 8  # pictures in a row of what the detector sees
FRAME = (0, 255, 255)


def save_pictures(study: Study, out: Path) -> None:
    """Write `horizons.png`, `drift.png`, and where there are fireballs `fireballs.png` and `detector.png`."""
    save_picture(out / "horizons.png", contact_sheet(_horizon_rows(study), scale=2))
    save_picture(out / "drift.png", contact_sheet(list(study.drift.sheet[:CLIPS]), scale=2))
    if study.fireballs is not None:
        _save_fireballs(study.fireballs, out)


def _save_fireballs(balls: FireballResult, out: Path) -> None:
    """Two rows of real ones above two of dreamed ones; and what the detector sees, real above dreamed."""
    sides = ((balls.real, 0), (balls.real, 1), (balls.dreamed, 0), (balls.dreamed, 1))
    rows = [row for clips, turn in sides if len(row := _close_ups(clips, turn))]
    if rows:
        save_picture(out / "fireballs.png", contact_sheet(rows, scale=4))
    pairs = list(zip(balls.real, balls.dreamed, strict=True))[:CLIPS]
    marked = [_mark(clip[:: 2 * EVERY][:MARKED]) for pair in pairs for clip in pair]
    save_picture(out / "detector.png", contact_sheet(marked, scale=1))


def _horizon_rows(study: Study) -> list[np.ndarray]:
    """Real above dreamed, every fourth step, starting with the last real picture of the context."""
    clips, dreamed = study.horizons.clips, study.horizons.dreamed
    context = clips.frames.shape[1] - dreamed.shape[1]
    rows = []
    for real, dream in zip(clips.frames[:CLIPS], dreamed[:CLIPS], strict=True):
        last = real[context - 1 : context]
        rows += [np.concatenate([last, side[EVERY - 1 :: EVERY]]) for side in (real[context:], dream)]
    return rows


def _close_ups(clips: list[np.ndarray], turn: int) -> np.ndarray:
    """Cut-outs around blobs, spread over the clips: (CLOSE_UPS or fewer, *CLOSE_UP, 3)."""
    height, width = CLOSE_UP
    found = []
    for clip in clips:
        blobs = find_blobs(clip)
        for k in np.linspace(0, len(blobs.area) - 1, 12).astype(int) if len(blobs.area) else ():
            x, y = blobs.centre[k]
            left = int(np.clip(x - width / 2, 0, max(clip.shape[2] - width, 0)))
            top = int(np.clip(y - height / 2, 0, max(clip.shape[1] - height, 0)))
            found.append(clip[blobs.picture[k], top : top + height, left : left + width])
    chosen = np.random.default_rng(turn).permutation(len(found))[:CLOSE_UPS]
    return np.array([found[i] for i in chosen])


def _mark(clip: np.ndarray) -> np.ndarray:
    """Draw the box of every blob, at twice the size."""
    blobs, large = find_blobs(clip), enlarge(clip, 2)
    for t, (x0, y0, x1, y1) in zip(blobs.picture, 2 * blobs.box, strict=True):
        top, left = max(y0 - 1, 0), max(x0 - 1, 0)
        large[t, top : y1 + 1, [left, min(x1, large.shape[2] - 1)]] = FRAME
        large[t, [top, min(y1, large.shape[1] - 1)], left : x1 + 1] = FRAME
    return large
