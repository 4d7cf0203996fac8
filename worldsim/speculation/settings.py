"""How much is computed ahead of time, and from which guesses: `Speculation`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from worldsim.errors import InvalidInput

Propose = Callable[[Any], Sequence[Any]]  # the observation of an environment -> its next actions, likeliest first
GUESSES = ("history", "repeat")


@dataclass(frozen=True)
class Speculation:
    """How steps are computed ahead of time. No setting changes what a step gives, only when it is computed.

    `guess` says where guesses come from: "history" counts what followed what among the actions so far, "repeat"
    expects the last action again, and a function is asked: it gets the observation that the environment gave last (in
    a vector environment those of all rows), or the one that a guess led to, and returns actions, likeliest first. It
    is called in a thread of its own, and what it raises is raised by the next `step`.
    """

    guess: Literal["history", "repeat"] | Propose = "history"
    depth: int = 3  # steps ahead, at most
    breadth: int = 4  # guesses of one and the same step, at most
    states: int = 8  # guessed states kept in memory at once, at most
    floor: float = 0.001  # guesses that are less likely than this are left alone
    adapt: bool = True  # whether hits and idle time decide what is worth computing; else all of the above is computed

    def __post_init__(self) -> None:
        if self.guess not in GUESSES and not callable(self.guess):
            known = ", ".join(map(repr, GUESSES))
            raise InvalidInput(f"speculation guess is {self.guess!r}; give one of {known}, or a function that proposes")
        for name in ("depth", "breadth", "states"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InvalidInput(f"speculation {name} is {value!r}; give a whole number, 1 or more")
        if not 0 <= self.floor <= 1:
            raise InvalidInput(f"speculation floor is {self.floor!r}; give a probability from 0 to 1")


def check_speculation(speculate: bool | Speculation | None) -> Speculation | None:
    """The settings that an environment's `speculate` means; None is off, True is on as by default."""
    if speculate is None or speculate is False:
        return None
    if speculate is True:
        return Speculation()
    if not isinstance(speculate, Speculation):
        raise InvalidInput(f"speculate={speculate!r}; pass True, False, None or a worldsim.speculation.Speculation")
    return speculate
