"""How steps are computed ahead of time: `Speculation`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from worldsim.errors import InvalidInput

Propose = Callable[[Any], Sequence[Any]]  # the observation of an environment -> its next actions, likeliest first


@dataclass(frozen=True)
class Speculation:
    """How steps are computed ahead of time. No setting changes what a step gives, only when it is computed.

    `guess` says where guesses come from: "history" counts what followed what among the actions so far, and a function
    is asked: it gets the observation that the environment gave last (in a vector environment those of all rows), and
    returns actions, likeliest first. It is called in a thread of its own, and what it raises is raised by the next
    `step`.
    """

    guess: Literal["history"] | Propose = "history"
    breadth: int = 4  # guesses of a step, at most; each keeps a state in memory
    adapt: bool = True  # whether hits and idle time decide what is worth computing; else every guess is computed

    def __post_init__(self) -> None:
        if self.guess != "history" and not callable(self.guess):
            raise InvalidInput(f"speculation guess is {self.guess!r}; give 'history', or a function that proposes")
        if isinstance(self.breadth, bool) or not isinstance(self.breadth, int) or self.breadth < 1:
            raise InvalidInput(f"speculation breadth is {self.breadth!r}; give a whole number, 1 or more")


def check_speculation(speculate: bool | Speculation | None) -> Speculation | None:
    """The settings that an environment's `speculate` means; None is off, True is on as by default."""
    if speculate is None or speculate is False:
        return None
    if speculate is True:
        return Speculation()
    if not isinstance(speculate, Speculation):
        raise InvalidInput(f"speculate={speculate!r}; pass True, False, None or a worldsim.speculation.Speculation")
    return speculate
