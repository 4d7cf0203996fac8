"""Precursor events: what comes before an ending more often than the ending itself, such as a hit that is survived.

Endings are few, so a network learns from events what leads to them; clips of events are also drawn more often
(`worldsim.data.clips`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from worldsim.data.episodes import Episodes
from worldsim.errors import InvalidInput

# How a variable marks an event: from its values (T,) and those of the rows before, which rows do.
MARKS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "falls": lambda now, before: now < before,
    "rises": lambda now, before: now > before,
    "nonzero": lambda now, before: now != 0,
}


@dataclass(frozen=True)
class EventSpec:
    """A recorded variable, and what it does where an event happens."""

    variable: str
    mark: str  # "falls", "rises" or "nonzero"

    @classmethod
    def parse(cls, text: str) -> EventSpec:
        """Read "VARIABLE:falls"; raises InvalidInput for anything else."""
        variable, _, mark = text.rpartition(":")
        if not variable or mark not in MARKS:
            raise InvalidInput(f"event {text!r} is not known; give VARIABLE:MARK, with one of {', '.join(MARKS)}")
        return cls(variable, mark)


def find_events(store: Episodes, specs: Sequence[EventSpec] = ()) -> np.ndarray:
    """The rows that end the episode or have one of these events, (T,) bool.

    Raises InvalidInput if the store lacks one of the variables.
    """
    found = store.read("terminated", 0, store.num_steps)
    for spec in specs:
        names = store.meta.variable_names if "variables" in store.streams else ()
        if spec.variable not in names:
            raise InvalidInput(
                f"episode store {store.path} has no variable {spec.variable!r}; its variables are "
                f"{', '.join(names) or 'none'}"
            )
        values = store.read("variables", 0, store.num_steps)[:, names.index(spec.variable)]
        before = np.concatenate([values[:1], values[:-1]])
        begins = store.ends - store.lengths
        before[begins] = values[begins]  # an episode may begin with less than the one before ended with
        found = found | MARKS[spec.mark](values, before)
    return found
