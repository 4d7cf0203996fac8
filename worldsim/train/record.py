"""The training record: a small JSON file of how a model came to be, which ships in its world's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from worldsim.errors import DamagedCheckpoint
from worldsim.io.files import read_json, write_json


def checked_record(value: Any) -> dict[str, Any]:
    """What `TrainingRecord.to_json` gave, read from JSON; raises ValueError for anything else."""
    for name, fields in (("curve", ("step",)), ("calls", ("seconds", "reached_step"))):
        rows = value.get(name) if isinstance(value, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise ValueError(f"it has no list of {name}")
        if not all(isinstance(row.get(field), int | float) for row in rows for field in fields):
            raise ValueError(f"its {name} lack {' or '.join(fields)}")
    return value


class TrainingRecord:
    """Loss curve (thinned), wall-clock time and steps of every call that trained a model."""

    POINTS = 400

    def __init__(self, path: Path) -> None:
        self.path = path
        self.curve: list[dict[str, float]] = []
        self.calls: list[dict[str, float]] = []
        if path.exists():
            try:
                old = checked_record(read_json(path))
                self.curve, self.calls = old["curve"], old["calls"]
            except (OSError, ValueError) as error:
                raise DamagedCheckpoint(
                    f"training record {path} cannot be read ({error}); restore it from a copy, or delete it"
                ) from error

    def add(self, step: int, values: dict[str, float]) -> None:
        """Append a point of the curve; every other one is dropped when there are too many."""
        self.curve.append({"step": step, **{k: round(v, 6) for k, v in values.items()}})
        if len(self.curve) > self.POINTS:
            self.curve = self.curve[1::2]

    def begin_call(self, step: int) -> None:
        """Note that a call begins to train, from this step."""
        self.calls.append({"seconds": 0.0, "reached_step": step})

    def note_time(self, seconds: float, step: int) -> None:
        """Note how long the call that began last has trained, and the step it has reached."""
        self.calls[-1] = {"seconds": round(seconds, 1), "reached_step": step}

    def to_json(self) -> dict[str, Any]:
        """What the file holds."""
        return {"calls": self.calls, "curve": self.curve}

    def save(self) -> None:
        """Write the file, whole or not at all; raises InvalidInput where that cannot be."""
        write_json(self.path, self.to_json(), indent=None)
