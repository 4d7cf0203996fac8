"""One stage of `worldsim make`, what tells that its inputs have changed, and what is kept of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from worldsim.errors import InvalidInput
from worldsim.io.files import read_json
from worldsim.train.recipe import DataConfig


@dataclass(frozen=True)
class Stage:
    """One stage: what it depends on, and how it is run, with `resume` where it was begun."""

    name: str
    inputs: Any  # of the recipe; as JSON
    after: tuple[str, ...]  # names of the stages that it depends on
    run: Callable[[bool], dict[str, Any]]  # -> what is worth keeping in the state
    made: tuple[str, ...]  # files and folders that it makes, in the folder of the making
    hours: float = 0.0  # of training; with more of them than it had, what was trained is trained on


def given(config: Any, *, without: str = "") -> dict[str, Any]:
    """What a table of the recipe says that is not the default: a field that comes to be later changes no mark."""
    found = {}
    for field in fields(config):
        value, usual = getattr(config, field.name), field.default
        if field.default_factory is not MISSING:
            usual = field.default_factory()
        if value != usual and field.name != without:
            found[field.name] = given(value) if is_dataclass(value) else value
    return found


def files_of(d: DataConfig) -> list[Any]:
    """What tells that recordings of one's own have changed: names, sizes and times of the files."""
    paths = [Path(p) for p in (d.store, d.videos, d.actions) if p]
    files = sorted(f for p in paths for f in (p.rglob("*") if p.is_dir() else [p]) if f.is_file())
    return [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files]


def read_state(path: Path) -> dict[str, Any]:
    """Which stages are done, and of what, by their names; raises InvalidInput for what cannot be read."""
    try:
        state = read_json(path) if path.exists() else {}
        if not (isinstance(state, dict) and all(isinstance(stage, dict) for stage in state.values())):
            raise ValueError("it has no stages")
    except (OSError, ValueError) as error:
        raise InvalidInput(
            f"{path} cannot be read ({error}); restore it from a copy, or give another --out to begin anew"
        ) from error
    return state
