"""Contact sheets of a study."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from worldsim.evaluate.study import Study
from worldsim.io.media import contact_sheet, save_image

CLIPS = 6  # shown
EVERY = 4  # steps between the frames of a clip


def save_sheets(study: Study, out: Path) -> None:
    """Write `horizons.png`, `drift.png`, and for every sheet of a probe `<probe>-<sheet>.png`."""
    save_image(out / "horizons.png", contact_sheet(_horizon_rows(study), scale=2))
    save_image(out / "drift.png", contact_sheet(list(study.drift.sheet[:CLIPS]), scale=2))
    for probe, result in study.probes.items():
        for name, rows in result.sheets.items():
            if len(rows):
                save_image(out / f"{probe}-{name}.png", contact_sheet(rows, scale=1))


def _horizon_rows(study: Study) -> list[np.ndarray]:
    """Real above dreamed, every fourth step, starting with the last real frame of the context."""
    clips, dreamed = study.horizons.clips, study.horizons.dreamed
    context = clips.frames.shape[1] - dreamed.shape[1]
    rows = []
    for real, dream in zip(clips.frames[:CLIPS], dreamed[:CLIPS], strict=True):
        last = real[context - 1 : context]
        rows += [np.concatenate([last, side[EVERY - 1 :: EVERY]]) for side in (real[context:], dream)]
    return rows
