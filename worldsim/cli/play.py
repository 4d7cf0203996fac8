"""`worldsim play`: opens a window and lets a person play inside a world."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from worldsim.cli.output import require_writable
from worldsim.errors import InvalidInput, MissingDependency, WorldsimError

if TYPE_CHECKING:
    from worldsim.envs.play.status import Settings
    from worldsim.world import World


def play(
    world: Annotated[str, tyro.conf.Positional],
    /,
    seed: int = 0,
    scale: int | None = None,
    speed: float = 1.0,
    real: bool = False,
    trust_source: bool = False,
    record: Path | None = None,
    script: str = "",
    trace: Path | None = None,
    speculate: bool = True,
    compiled: bool = False,
    max_seconds: float | None = None,
) -> None:
    """Open a window and play inside a world. F1 shows the keys.

    Args:
        world: a shipped world, a local folder, or a hub id.
        seed: names the first episode; every new one takes the next seed.
        scale: screen pixels down to one of the world, a whole number; without it the window suits the screen.
        speed: 1 plays as fast as the recorded game.
        real: show the real game at the left, played with the same keys (needs its simulator).
        trust_source: let the real game be one whose Python module the world's files name, which runs that module.
        record: write a clip of everything to this .mp4 file.
        script: keys for the first steps, in place of the player's, as "left*20 noop*10 left+up*5".
        trace: write the actions that were played to this .json file, for `worldsim bench --speculate --streams FILE`.
        speculate: guess the next keys and compute what they lead to between the steps; the frames are the same.
        compiled: compile the world's steps to machine code, which takes half a minute, once.
        max_seconds: close the window after this long.
    """
    _check(seed, scale, speed, max_seconds)
    if record is not None and record.suffix != ".mp4":
        raise InvalidInput(f"--record {str(record)!r} does not end in .mp4; give it that ending")
    if trace is not None:
        if trace.suffix != ".json":
            raise InvalidInput(f"--trace {str(trace)!r} does not end in .json; give it that ending")
        require_writable(trace)
    _require_display()
    from worldsim.world import World

    loaded = World.from_pretrained(world)
    if compiled:
        loaded = loaded.compiled(1)  # before there is a window to wait in
    chosen = {"seed": seed, "speed": speed, "real": real, "record": record, "trace": trace, "speculate": speculate}
    settings = _settings(loaded, script, trust_source, **chosen)
    from worldsim.envs.play.window import Window

    window = Window(loaded, settings, scale=scale)
    try:
        window.run(max_seconds)
    finally:
        clips = window.session.clips
        for path in clips.written:
            print(f"wrote {path}")
        if trace is not None and trace.exists():
            print(f"wrote {trace}")
    if clips.failure:
        raise WorldsimError(f"{clips.failure}; give a path that can be written, with space for the clip")


def _check(seed: int, scale: int | None, speed: float, max_seconds: float | None) -> None:
    if not 0 <= seed < 2**62:
        raise InvalidInput(f"--seed {seed} is not from 0 to 2**62; give one that is")
    if scale is not None and not 1 <= scale <= 64:
        raise InvalidInput(f"--scale {scale} is not from 1 to 64; give a whole number that is")
    if not 0.01 <= speed <= 100:
        raise InvalidInput(f"--speed {speed} is not from 0.01 to 100; 1 is the recorded game's own")
    if max_seconds is not None and not (max_seconds > 0 and math.isfinite(max_seconds)):
        raise InvalidInput(f"--max-seconds {max_seconds} is no time; give a number of seconds above 0")


def _require_display() -> None:
    """Fail before the world is loaded, which takes longer."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    try:
        import pygame  # noqa: F401
    except ImportError as error:
        raise MissingDependency('the window needs pygame-ce; get it with `pip install "worldsim[play]"`') from error
    from worldsim.envs.play.window import open_display

    open_display()


def _settings(world: World, script: str, trust_source: bool, **chosen: Any) -> Settings:
    from worldsim.envs.play.keys import ActionKeys, parse_script
    from worldsim.envs.play.real import open_real
    from worldsim.envs.play.status import Settings
    from worldsim.envs.sources import find_modules_here

    find_modules_here()
    keys = ActionKeys(world.spec.actions)
    source = world.config.source
    return Settings(
        **chosen,
        script=tuple(parse_script(script, keys.names)),
        open_real=lambda: open_real(
            source.name, source.frame_skip, world.spec, source.parameters, trust_source=trust_source
        ),
    )
