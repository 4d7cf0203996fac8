"""A clip of what is played, at the game's own pace: frames enter when they are made, not when shown."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from worldsim.envs.play.feed import View
from worldsim.errors import InvalidInput
from worldsim.io.media import VideoWriter, sound_track
from worldsim.io.text import file_stem
from worldsim.spec import WorldSpec

MIN_HEIGHT = 256  # of the clip, in pixels; small frames are enlarged so that players show them crisp
GAP = 8  # black columns between the real game and the dream


def pixel_size(spec: WorldSpec, vertical: int) -> tuple[int, int]:
    """Screen pixels (across, down) of one frame pixel `vertical` high: whole numbers near the aspect."""
    return max(1, round(vertical * spec.pixel_aspect)), vertical


class Recorder:
    """Writes one MP4; every view of it has the same number of frames."""

    def __init__(self, path: Path, spec: WorldSpec) -> None:
        """Raises InvalidInput for a path that does not end in .mp4 or cannot be written."""
        self.path = path
        self._across, self._down = pixel_size(spec, math.ceil(MIN_HEIGHT / spec.height))
        self._writer = VideoWriter(path, spec.steps_per_second * spec.frames_per_step, sound=sound_track(spec))
        self._step = None if spec.audio is None else spec.audio.shape
        self._per_step = spec.frames_per_step
        self.frames = 0

    def write(self, view: View) -> None:
        """Append one view, its frames side by side."""
        shown: list[np.ndarray] = []
        for frame in view:
            large = frame.repeat(self._down, axis=0).repeat(self._across, axis=1)
            gap = np.zeros((large.shape[0], GAP, 3), np.uint8)
            shown += [gap, large] if shown else [large]
        self._writer.write(np.concatenate(shown, axis=1))
        self.frames += 1

    def write_sound(self, sound: np.ndarray | None, views: int) -> None:
        """Append the sound of a step, (samples, channels) int16; None is silence, as long as so many views are."""
        if self._step is not None:
            silence = np.zeros((self._step[0] * views // self._per_step, self._step[1]), np.int16)
            self._writer.write_sound(silence if sound is None else sound)

    def close(self) -> None:
        """Put the file in its place, unless nothing was recorded; may be called twice."""
        if self.frames:
            self._writer.close()
        else:
            self._writer.discard()


class Clips:
    """Recording on and off. A clip that cannot be written stops and says so; the game goes on."""

    def __init__(self, spec: WorldSpec, say: Callable[[str], None]) -> None:
        self._spec = spec
        self._say = say
        self._recorder: Recorder | None = None
        self.written: list[Path] = []  # the clips that were finished
        self.failure = ""  # why the last one that failed did

    @property
    def path(self) -> Path | None:
        """The clip being written, if any."""
        return self._recorder.path if self._recorder else None

    def start(self, path: Path) -> None:
        """Begin a clip; raises InvalidInput for a path that does not end in .mp4."""
        with self._going_on(path):
            self._recorder = Recorder(path, self._spec)
            self._say(f"recording {path}")

    def toggle(self) -> None:
        """End the clip, or begin one in the working directory, named after the world and the time."""
        if self._recorder is not None:
            self.stop()
        else:
            self.start(Path(f"{file_stem(self._spec.name, 'clip')}-{time.strftime('%Y%m%d-%H%M%S')}.mp4"))

    def write(self, views: Sequence[View], sound: np.ndarray | None = None) -> None:
        """Append views to the clip, if there is one, and the sound that goes with them, if the world has any."""
        if self._recorder is None:
            return
        with self._going_on(self._recorder.path):
            for view in views:
                self._recorder.write(view)
            self._recorder.write_sound(sound, len(views))

    def stop(self) -> None:
        """Finish the clip, if there is one."""
        if self._recorder is None:
            return
        recorder, self._recorder = self._recorder, None
        with self._going_on(recorder.path):
            recorder.close()
            if recorder.frames:
                self.written.append(recorder.path)
                self._say(f"wrote {recorder.path}")

    @contextlib.contextmanager
    def _going_on(self, path: Path) -> Iterator[None]:
        """Give the clip up where the disk fails, which left nothing of it."""
        try:
            yield
        except InvalidInput as error:
            if not isinstance(error.__cause__, OSError):
                raise
            self._recorder = None
            self.failure = f"cannot write {path}: {error.__cause__.strerror or error.__cause__}"
            self._say(self.failure)
