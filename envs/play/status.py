"""What goes into the model thread and comes out, besides frames: settings, and a status for the screen."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from worldsim.envs.play.real import RealGame
from worldsim.memory.base import FromAbove


@dataclass(frozen=True)
class Settings:
    """How a game is played."""

    seed: int = 0
    speed: float = 1.0  # 1: as fast as the recorded game
    script: tuple[tuple[str, ...], ...] = ()  # keys of the first steps, instead of the player's
    record: Path | None = None  # a clip to write from the first frame on
    trace: Path | None = None  # where to write the actions that were played, at the end
    speculate: bool = False  # whether the player's next action is guessed and computed between the steps
    real: bool = False  # whether the real game runs beside the dream from the start
    audio: bool = True  # whether the sound of a world that has any is played
    open_real: Callable[[], RealGame] | None = None  # None: this world names no real game


@dataclass(frozen=True)
class Status:
    """How the game stands; the model thread replaces it after everything it does."""

    phase: str = "loading"  # "loading", "playing", "paused", "ended"
    seed: int = 0
    steps: int = 0
    reward: float = 0.0  # sum over the episode
    ending: str = ""  # why the episode is over
    ending_chance: float | None = None  # the model's own, for the last step
    speed: float = 1.0
    step_ms: float | None = None  # median time of the model
    hit_rate: float | None = None  # of the guesses; None where nothing is guessed
    recording: Path | None = None
    volume: float | None = None  # of the sound, 0 to 1; None where none is played
    underruns: int = 0  # times that the sound ran dry
    side_by_side: bool = False
    real_ended: bool = False
    keys: tuple[str, ...] = ()  # that a script holds down
    message: str = ""  # the last thing worth telling
    message_at: float = -math.inf  # when it was told
    memory: bool | None = None  # whether memories are read; None where the world has none
    plan: FromAbove | None = field(default=None, compare=False)  # what is remembered of places, from above
