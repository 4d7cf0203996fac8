"""ViZDoom as a source: *take cover* (dodge fireballs) and *my way home* (rooms and corridors)."""

from __future__ import annotations

import contextlib
import ctypes.util
import os
import shlex
import signal
import sys
import tempfile
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from worldsim.envs.sources.base import TimeStep, check_discrete, frame_of
from worldsim.envs.sources.doom_scenarios import MAX_FIREBALLS, POSE, SCENARIOS, SCREEN_WIDTH, source_spec
from worldsim.errors import InvalidInput, InvalidState, MissingDependency, WorldsimError
from worldsim.train.interrupts import SIGNALS

if TYPE_CHECKING:
    import vizdoom as vzd

# The 8-bit depth buffer in map units along the viewing axis, fitted to rays cast against the lines of a map:
# 7.12 * level + 9.2, with a median error of 1.5 units on walls; floors agree.
DEPTH_UNIT, DEPTH_NEAREST = 7.12, 9.2

# Becomes the program given first, to be killed when its parent, whose id is given second, ends (prctl(2)).
DIE_WITH_PARENT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
if os.getppid() == int(sys.argv[2]):
    os.execv(sys.argv[1], [sys.argv[1], *sys.argv[3:]])
"""


class DoomSource:
    """One ViZDoom game; a step is `frame_skip` tics of 1/35 s.

    Extras, each by its option: `between` frames of the tics before the last of a step, `depth` in map units
    (nearest sample, 7 units a level), `pose` (map units, radians), `sound` (22,050 Hz stereo), `labels`: the
    boxes of fireballs in pixels of the frame, NaN where there is none (for measuring, never for training).
    The variables are always there. When a game ends ViZDoom gives no frame: the last one is repeated, which
    is the last of the `between` frames where these are on. It is silent then.
    """

    def __init__(
        self,
        scenario: str = "take_cover",
        *,
        frame_skip: int = 2,
        between: bool = False,
        depth: bool = False,
        pose: bool = False,
        sound: bool = False,
        labels: bool = False,
    ) -> None:
        if scenario not in SCENARIOS:
            raise InvalidInput(f"unknown ViZDoom scenario {scenario!r}; the scenarios are {', '.join(SCENARIOS)}")
        if frame_skip < 1 or (between and frame_skip < 2):
            raise InvalidInput(f"frame_skip is {frame_skip}; give at least 1, and at least 2 with between frames")
        self.scenario = SCENARIOS[scenario]
        self.spec = source_spec(
            scenario, frame_skip, between=between, depth=depth, pose=pose, sound=sound, labels=labels
        )
        self._between = between
        self._vzd = _import_vizdoom()
        if sound:
            _require_openal()
        # Each variable once: ViZDoom drops repeated ones.
        self._variables = tuple(dict.fromkeys(self.scenario.variables + (POSE if pose else ())))
        folder = tempfile.TemporaryDirectory(prefix="worldsim-doom-")
        self._game = self._start(scenario, folder.name)
        self._stop = weakref.finalize(self, _stop, self._game, folder)
        self._steps = -1  # actions since the reset; negative when a reset is needed
        self._row: TimeStep | None = None

    def reset(self, seed: int) -> TimeStep:
        """Start the episode that `seed` (taken modulo 2**31) names."""
        with self._engine_errors():
            self._game.set_seed(seed % 2**31)
            self._game.new_episode()
            state = self._game.get_state()
        frame = self._frame(state)
        extras = self._extras(state)
        if self._between:
            extras["between"] = np.stack([frame] * (self.spec.frame_skip - 1))
        self._steps = 0
        self._row = TimeStep(rgb=frame, extras=extras)
        return self._row

    def step(self, action: int | np.ndarray) -> TimeStep:
        """Play one action for `frame_skip` tics."""
        if self._steps < 0 or self._row is None:
            raise InvalidState("the episode is over or has not begun; call reset(seed) first")
        last = self._row
        presses = self.scenario.presses[check_discrete(action, self.spec.actions.n)]
        with self._engine_errors():
            reward, shots = self._play(list(presses), last.rgb)
        self._steps += 1
        finished = self._game.is_episode_finished()
        state = None if finished else self._game.get_state()
        frame = last.rgb if state is None else self._frame(state)
        if finished and shots:
            frame = shots[-1]
        extras = dict(last.extras) if state is None else self._extras(state)
        if state is None and "audio" in extras:
            extras["audio"] = np.zeros_like(extras["audio"])
        if self._between:
            extras["between"] = np.stack(shots)
        truncated = not finished and self._steps == self.spec.max_episode_steps
        self._row = TimeStep(frame, reward, finished, truncated, extras)
        if self._row.done:
            self._steps = -1
        return self._row

    def _play(self, buttons: list[int], frame: np.ndarray) -> tuple[float, list[np.ndarray]]:
        """Press the buttons for one step; returns the reward and the frames of all tics but the last."""
        skip = self.spec.frame_skip
        if not self._between:
            return float(self._game.make_action(buttons, skip)), []
        reward, shots = 0.0, []
        for tic in range(skip):
            if not self._game.is_episode_finished():
                reward += self._game.make_action(buttons, 1)
            if tic < skip - 1:
                if not self._game.is_episode_finished():
                    frame = self._frame(self._game.get_state())
                shots.append(frame)
        return float(reward), shots

    def render(self) -> np.ndarray:
        """The current frame (H, W, 3) uint8."""
        return frame_of(self._row)

    def close(self) -> None:
        """Stop the game; may be called twice."""
        self._stop()

    def _start(self, scenario: str, folder: str) -> vzd.DoomGame:
        vzd, extras = self._vzd, self.spec.extras
        game = vzd.DoomGame()
        game.load_config(str(Path(vzd.scenarios_path) / f"{scenario}.cfg"))
        game.set_doom_config_path(str(Path(folder) / "_vizdoom.ini"))
        game.set_window_visible(False)
        game.set_screen_resolution(vzd.ScreenResolution.RES_320X240)
        game.set_screen_format(vzd.ScreenFormat.RGB24)
        game.set_render_hud(False)
        game.set_mode(vzd.Mode.PLAYER)
        game.set_episode_timeout(0)  # the limit is counted here, so that the last frame is still given
        game.set_available_buttons([getattr(vzd.Button, name) for name in self.scenario.buttons])
        game.set_available_game_variables([getattr(vzd.GameVariable, name) for name in self._variables])
        game.set_depth_buffer_enabled("depth" in extras)
        game.set_labels_buffer_enabled("fireball_boxes" in extras)
        if "audio" in extras:
            game.add_game_args("+snd_efx 0")  # the effects extension of OpenAL crashes in containers
            game.set_sound_enabled(True)
            game.set_audio_buffer_enabled(True)
            game.set_audio_sampling_rate(vzd.SamplingRate.SR_22050)
            game.set_audio_buffer_size(self.spec.frame_skip)
        game.set_vizdoom_path(str(_engine_that_ends_with_us(Path(vzd.__file__).parent / "vizdoom", folder)))
        with _sheltered(folder), self._engine_errors():
            game.init()
        return game

    def _engine_errors(self) -> contextlib.AbstractContextManager[None]:
        return engine_errors(self._vzd)

    def _frame(self, state: Any) -> np.ndarray:
        """The kept band of the screen, area-averaged to the spec's size."""
        band = state.screen_buffer[slice(*self.scenario.rows)]
        size = (self.spec.width, self.spec.height)
        return np.array(Image.fromarray(band).resize(size, Image.Resampling.BOX))

    def _extras(self, state: Any) -> dict[str, np.ndarray]:
        wanted = self.spec.extras
        values = dict(zip(self._variables, state.game_variables, strict=True))
        named = [values[name] for name in self.scenario.variables]
        extras: dict[str, np.ndarray] = {"variables": np.array(named, np.float32)}
        if "depth" in wanted:
            band = Image.fromarray(state.depth_buffer[slice(*self.scenario.rows)])
            size = (self.spec.width, self.spec.height)
            # Averaging would invent surfaces between a near and a far one.
            levels = np.asarray(band.resize(size, Image.Resampling.NEAREST), np.float32)
            extras["depth"] = levels * DEPTH_UNIT + DEPTH_NEAREST
        if "pose" in wanted:
            x, y, z, angle = (values[name] for name in POSE)
            extras["pose"] = np.array([x, y, z, np.deg2rad(angle)], np.float32)
        if "audio" in wanted:
            extras["audio"] = np.asarray(state.audio_buffer, np.int16)
        if "fireball_boxes" in wanted:
            extras["fireball_boxes"] = self._boxes(state.labels)
        return extras

    def _boxes(self, labels: list[Any]) -> np.ndarray:
        """Boxes x0, y0, x1, y1 of fireballs in pixels of the frame, (16, 4) float32, NaN where unused."""
        top, bottom = self.scenario.rows
        scale_x, scale_y = self.spec.width / SCREEN_WIDTH, self.spec.height / (bottom - top)
        boxes = np.full((MAX_FIREBALLS, 4), np.nan, np.float32)
        balls = [label for label in labels if label.object_name == "DoomImpBall"]
        visible = [b for b in balls if b.y < bottom and b.y + b.height > top]
        visible.sort(key=lambda b: b.width * b.height, reverse=True)  # the nearest are kept if there are too many
        for box, ball in zip(boxes, visible, strict=False):
            y0, y1 = np.clip([ball.y, ball.y + ball.height], top, bottom) - top
            box[:] = ball.x * scale_x, y0 * scale_y, (ball.x + ball.width) * scale_x, y1 * scale_y
        return boxes


@contextlib.contextmanager
def engine_errors(vzd: Any) -> Iterator[None]:
    """Raise WorldsimError where the engine stops inside the block."""
    try:
        yield
    except (
        vzd.ViZDoomErrorException, vzd.ViZDoomUnexpectedExitException, vzd.ViZDoomIsNotRunningException,
    ) as error:  # fmt: skip
        raise WorldsimError(f"the ViZDoom engine stopped ({error}); make the source again") from error


@contextlib.contextmanager
def _sheltered(folder: str) -> Iterator[None]:
    """Start the engine in a folder of its own, where it makes `_vizdoom`, and deaf to what ends this process.

    The engine inherits the blocked signals; its end is up to `DoomSource.close` and `_engine_that_ends_with_us`. The
    engine's library takes signals over as it starts, so their handlers are put back.
    """
    here = os.getcwd()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(here)
        if threading.current_thread() is threading.main_thread():  # only there can they be set
            for number, handler in handlers.items():
                signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _engine_that_ends_with_us(engine: Path, folder: str) -> Path:
    """A program that runs the engine so that Linux kills it when this process ends in whatever way, SIGKILL included.

    Elsewhere, and where nothing in `folder` may be run, the engine itself, which is left behind by a SIGKILL.
    """
    script = Path(folder) / "engine"
    command = (sys.executable, "-I", "-S", "-c", DIE_WITH_PARENT, str(engine), str(os.getpid()))
    script.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
    script.chmod(0o700)
    return script if sys.platform == "linux" and os.access(script, os.X_OK) else engine


def _stop(game: vzd.DoomGame, folder: tempfile.TemporaryDirectory[str]) -> None:
    """Stop the engine before its folder goes: it writes its settings there on the way out."""
    game.close()
    folder.cleanup()


def _import_vizdoom() -> Any:
    try:
        import vizdoom
    except ImportError as error:
        raise MissingDependency('ViZDoom is not installed; get it with `pip install "worldsim[doom]"`') from error
    return vizdoom


def _require_openal() -> None:
    """Without the library ViZDoom runs and its sound is silently all zeros."""
    if ctypes.util.find_library("openal") is None:
        raise MissingDependency(
            "sound needs the system library OpenAL; get it with `apt-get install libopenal1`, or do without sound"
        )
