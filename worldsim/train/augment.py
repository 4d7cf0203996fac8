"""Episodes seen in a mirror: where left and right are alike, twice the data to learn from at no cost of real steps."""

from __future__ import annotations

import numpy as np

from worldsim.errors import InvalidInput
from worldsim.spec import ActionSpec


def mirror_frames(frames: np.ndarray) -> np.ndarray:
    """Pictures (..., H, W, 3) with left and right exchanged."""
    return np.ascontiguousarray(frames[..., ::-1, :])


def mirror_actions(spec: ActionSpec, actions: np.ndarray) -> np.ndarray:
    """What the player in the mirror does, (T,) int64: LEFT in an action's meaning reads RIGHT and the reverse.

    Raises InvalidInput where that is not known: for continuous actions and actions without such a partner.
    """
    names = {name: index for index, name in enumerate(spec.meanings)}
    partners = [names.get(_exchanged(name)) for name in spec.meanings]
    if not spec.discrete or len(partners) != spec.n or None in partners:
        raise InvalidInput(
            f"actions {', '.join(spec.meanings) or 'without meanings'} have no mirror image; train without --mirror"
        )
    return np.array(partners, np.int64)[actions - spec.start] + spec.start


def _exchanged(meaning: str) -> str:
    return "RIGHT".join(part.replace("RIGHT", "LEFT") for part in meaning.split("LEFT"))
