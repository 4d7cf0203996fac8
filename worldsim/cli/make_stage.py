"""One stage of `worldsim make`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Stage:
    """One stage: what it depends on, and how it is run, with `resume` where it was begun."""

    name: str
    inputs: Any  # of the recipe; as JSON
    after: tuple[str, ...]  # names of the stages that it depends on
    run: Callable[[bool], dict[str, Any]]  # -> what is worth keeping in the state
    made: tuple[str, ...]  # files and folders that it makes, in the folder of the making
    hours: float = 0.0  # of training; with more of them than it had, what was trained is trained on
