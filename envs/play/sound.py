"""Sound on its way from the model thread to the sound card: a ring buffer, emptied by a thread of SDL's.

A step brings its samples a little before they are to be heard, and the card takes some at a time. Where the model is
late, the ring runs dry: that is an underrun, which is counted, and heard as a short silence. Time that late steps lost,
and clocks that differ, would use up what waits: so sound is played up to 1 % slower or faster until the usual amount
waits again (Arntzen, 2012, "Dynamic Rate Control for Retro Game Emulators").
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from worldsim.errors import MissingDependency
from worldsim.spec import WorldSpec

CHUNK = 512  # samples that the card takes at a time
# Steps that wait before sound begins. A step may come a step early, where keys changed: if sound begins with such a
# one, the next is two steps away, and may still be late.
LEAD = 3
USUAL, SLACK = 2.0, 0.5  # steps that wait when another comes, and how far from that nothing is done
TRIM = 0.01  # change of the speed at most, a sixth of a semitone
MOST = 8  # steps that wait at most: sound must not fall behind the frames
VOLUMES = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)


class Ring:
    """Samples (N, channels) int16 between two threads; what is pulled beyond them is silence."""

    def __init__(self, step: int, channels: int) -> None:
        """`step` is the usual number of samples that are pushed at once."""
        self.step = step
        self.underruns = 0
        self._lock = threading.Lock()
        self._buffer = np.zeros((MOST * step, channels), np.int16)
        self._first = self._count = 0
        self._playing = self._draining = False

    def trim(self) -> float:
        """The speed to play at, near 1, so that as much waits as usual."""
        with self._lock:
            beyond = self._count / self.step - USUAL if self._playing else 0.0
        return 1.0 + TRIM * float(np.clip(beyond, -1, 1)) * (abs(beyond) > SLACK)

    def push(self, samples: np.ndarray) -> None:
        """Append samples; the oldest go where there is no room, as the card is behind then."""
        size = len(self._buffer)
        samples = samples[-size:]
        with self._lock:
            lost = max(0, self._count + len(samples) - size)
            self._first, self._count = (self._first + lost) % size, self._count - lost
            places = (self._first + self._count + np.arange(len(samples))) % size
            self._buffer[places] = samples
            self._count += len(samples)
            self._draining = False
            self._playing = self._playing or self._count >= LEAD * self.step

    def pull(self, count: int) -> np.ndarray:
        """The next `count` samples, (count, channels); silence before there is a lead, and where they run out."""
        out = np.zeros((count, self._buffer.shape[1]), np.int16)
        with self._lock:
            if not self._playing:
                return out
            taken = min(count, self._count)
            out[:taken] = self._buffer[(self._first + np.arange(taken)) % len(self._buffer)]
            self._first, self._count = (self._first + taken) % len(self._buffer), self._count - taken
            if taken < count:
                self.underruns += not self._draining
                self._playing = False
        return out

    def drain(self) -> None:
        """No step comes for now, as in a pause: running dry is no underrun."""
        with self._lock:
            self._draining = True


class Speaker:
    """Plays the sound of steps through the default device; volume and mute are its own."""

    def __init__(self, spec: WorldSpec) -> None:
        """Open the device; raises MissingDependency where there is none."""
        assert spec.audio is not None
        samples, channels = spec.audio.shape
        self.ring = Ring(samples, channels)
        self.muted = False
        self._volume = len(VOLUMES) - 1
        self._device = _open_device(spec.audio_rate, channels, self._fill)

    @property
    def volume(self) -> float:
        """From 0 to 1; 0 while muted."""
        return 0.0 if self.muted else VOLUMES[self._volume]

    def turn(self, direction: int) -> None:
        """One notch louder (1) or quieter (-1); ends muting."""
        self.muted = False
        self._volume = min(max(self._volume + direction, 0), len(VOLUMES) - 1)

    def play(self, sound: np.ndarray, speed: float = 1.0) -> None:
        """The sound of a step, (samples, channels) int16; at other speeds it is resampled, as a tape would sound."""
        speed *= self.ring.trim()
        if speed != 1.0:
            places = np.linspace(0, len(sound) - 1, max(1, round(len(sound) / speed)))
            sound = np.stack([np.interp(places, np.arange(len(sound)), one) for one in sound.T], axis=1)
        self.ring.push(sound.astype(np.int16))

    def close(self) -> None:
        """Give the device back; may be called twice."""
        if self._device is not None:
            self._device.close()
            self._device = None

    def _fill(self, device: Any, memory: memoryview) -> None:
        """Called from SDL's thread, for so many bytes."""
        channels = self.ring._buffer.shape[1]
        samples = self.ring.pull(len(memory) // (2 * channels))
        loud = samples if self.volume == 1.0 else (samples * self.volume).astype(np.int16)
        memory[:] = loud.tobytes()


def _open_device(rate: int, channels: int, fill: Any) -> Any:
    import pygame
    from pygame._sdl2 import AUDIO_S16, INIT_AUDIO, AudioDevice, error, init_subsystem

    try:
        init_subsystem(INIT_AUDIO)
        device = AudioDevice(None, False, rate, AUDIO_S16, channels, CHUNK, 0, fill)
    except (pygame.error, error) as failure:  # two classes of one name
        raise MissingDependency(f"no sound device can be opened ({failure}); playing without sound") from failure
    device.pause(0)
    return device
