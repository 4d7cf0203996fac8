"""`worldsim play`: opens a window and lets a person play inside a world."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from worldsim.cli.output import require_writable
from worldsim.errors import InvalidInput, MissingDependency, WorldsimError

if TYPE_CHECKING:
    from worldsim.envs.play.status import Settings
    from worldsim.world import World


@dataclass(frozen=True)
class PlayOptions:
    """What is played, and how it is shown."""

    world: Annotated[str, tyro.conf.Positional]  # a shipped world, a local folder, or a hub id
    seed: int = 0  # names the first episode; every new one takes the next seed
    scale: int | None = None  # screen pixels down to one of the world; without it the window suits the screen
    speed: float = 1.0  # 1 plays as fast as the recorded game
    real: bool = False  # show the real game at the left, played with the same keys (needs its simulator)
    # let the real game be one whose Python module the world's files name, which runs that module
    trust_source: bool = False
    record: Path | None = None  # write a clip of everything to this .mp4 file
    script: str = ""  # keys for the first steps, in place of the player's, as "left*20 noop*10 left+up*5"
    # write the actions that were played to this .json file, for `worldsim bench --speculate --streams FILE`
    trace: Path | None = None
    speculate: bool = True  # guess the next keys and compute what they lead to between the steps; same frames
    compiled: bool = False  # compile the world's steps to machine code, which takes half a minute, once
    audio: bool = True  # play the sound of a world that has any
    max_seconds: float | None = None  # close the window after this long

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**62:
            raise InvalidInput(f"--seed {self.seed} is not from 0 to 2**62; give one that is")
        if self.scale is not None and not 1 <= self.scale <= 64:
            raise InvalidInput(f"--scale {self.scale} is not from 1 to 64; give a whole number that is")
        if not 0.01 <= self.speed <= 100:
            raise InvalidInput(f"--speed {self.speed} is not from 0.01 to 100; 1 is the recorded game's own")
        if self.max_seconds is not None and not 0 < self.max_seconds < math.inf:
            raise InvalidInput(f"--max-seconds {self.max_seconds} is no time; give a number of seconds above 0")
        for name, path, ending in (("record", self.record, ".mp4"), ("trace", self.trace, ".json")):
            if path is not None and path.suffix != ending:
                raise InvalidInput(f"--{name} {str(path)!r} does not end in {ending}; give it that ending")


def play(options: Annotated[PlayOptions, tyro.conf.arg(name="")]) -> None:
    """Open a window and play inside a world. F1 shows the keys."""
    if options.trace is not None:
        require_writable(options.trace)
    _require_display()
    from worldsim.world import World

    world = World.from_pretrained(options.world)
    if options.audio and world.config.audio is not None:
        world = world.with_audio()
    if options.compiled:
        world = world.compiled(1)  # before there is a window to wait in
    settings = _settings(world, options)
    from worldsim.envs.play.window import Window

    window = Window(world, settings, scale=options.scale)
    try:
        window.run(options.max_seconds)
    finally:
        clips = window.session.clips
        for path in clips.written:
            print(f"wrote {path}")
        if options.trace is not None and options.trace.exists():
            print(f"wrote {options.trace}")
        if window.session.speaker is not None:
            print(f"gaps in the sound: {window.session.speaker.ring.underruns}")
    if clips.failure:
        raise WorldsimError(f"{clips.failure}; give a path that can be written, with space for the clip")


def _require_display() -> None:
    """Fail before the world is loaded, which takes longer."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    try:
        import pygame  # noqa: F401
    except ImportError as error:
        raise MissingDependency('the window needs pygame-ce; get it with `pip install "worldsim[play]"`') from error
    from worldsim.envs.play.window import open_display

    open_display()


def _settings(world: World, options: PlayOptions) -> Settings:
    from worldsim.envs.play.keys import ActionKeys, parse_script
    from worldsim.envs.play.real import open_real
    from worldsim.envs.play.status import Settings
    from worldsim.envs.sources import find_modules_here

    find_modules_here()
    keys = ActionKeys(world.spec.actions)
    source = world.config.source
    return Settings(
        **{name: getattr(options, name) for name in ("seed", "speed", "real", "record", "trace", "speculate", "audio")},
        script=tuple(parse_script(options.script, keys.names)),
        open_real=lambda: open_real(
            source.name, source.frame_skip, world.spec, source.parameters, trust_source=options.trust_source
        ),
    )
