"""Calibrating the sound of a finished world on a recording: dreams are to be as loud, and to begin sounds as often.

What a briefly trained head draws is too quiet, and in its noise steps differ more, or less, than recorded ones do.
Dreams from the recording's frames, with its actions, are listened to, and the gain and the temperature that latents are
drawn at are changed until loudness and onsets are as recorded.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from worldsim.data.episodes import Episodes
from worldsim.evaluate.hearing import flux, loudness
from worldsim.evaluate.sound import Heard, dream_sound, listen_to
from worldsim.io.weights import WorldFiles
from worldsim.models.audio import AudioConfig
from worldsim.world import World

ROUNDS = 5
SPANS, STEPS = 48, 100  # that are dreamed
SHARE = 0.05  # of the recorded steps, whose onsets are the strongest ones
DAMPING = 0.6  # exponent of the change of temperature in a round: rates follow it about so
TEMPERATURES = (0.1, 1.5)


def calibrate_sound(files: WorldFiles, store: Episodes, *, seed: int = 0, spans: int = SPANS) -> AudioConfig:
    """The settings of the world's sound with which its dreams sound as the recording does: `gain`, `temperature`."""
    sound, heard = files.config.audio, None
    assert sound is not None
    for turn in range(ROUNDS):
        world = World(with_sound(files, sound), device="cpu").with_audio()
        if heard is None:
            heard = listen_to(world, store, spans, STEPS, seed)
        made = dream_sound(world, heard, heard.sound.shape[1], seed + turn)
        sound = adjusted(sound, heard, made)
    return sound


def adjusted(sound: AudioConfig, heard: Heard, made: np.ndarray) -> AudioConfig:
    """Settings that bring what was `made` with `sound`, (N, T, S, C), nearer to what was recorded."""
    ratio = np.sqrt(np.square(loudness(heard.sound)).mean() / max(np.square(loudness(made)).mean(), 1e-12))
    gain = float(np.clip(ratio, 0.5, 2)) * sound.gain
    real, found = (flux(one, sound.codec.rate) for one in (heard.sound, ratio * made))
    count = max(round(SHARE * real.size), 1)
    least = np.partition(real.ravel(), -count)[-count]
    wanted = (real >= least).sum() + 1
    change = float(wanted / ((found >= least).sum() + 1)) ** DAMPING
    temperature = float(np.clip(sound.temperature * np.clip(change, 0.5, 2), *TEMPERATURES))
    return dataclasses.replace(sound, gain=round(gain, 4), temperature=round(temperature, 4))


def with_sound(files: WorldFiles, sound: AudioConfig) -> WorldFiles:
    """The same files with other settings of the sound."""
    return dataclasses.replace(files, config=dataclasses.replace(files.config, audio=sound))
