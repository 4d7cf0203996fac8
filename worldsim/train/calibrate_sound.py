"""Calibrating the sound of a finished world on a recording: dreams are to be as loud, and to begin sounds as often.

A head that was trained briefly draws rare kinds of sound too rarely from frames that it never saw, and what it draws is
somewhat too quiet. Dreams from the recording's frames, with its actions, are listened to, and the log-odds of each
level of onsets and the gain are changed until both are as recorded.
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
DAMPING = 0.8  # of the change of log-odds in a round
LARGEST_BIAS = 4.0  # nats


def calibrate_sound(files: WorldFiles, store: Episodes, *, seed: int = 0, spans: int = SPANS) -> AudioConfig:
    """The settings of the world's sound with which its dreams sound as the recording does: `bias` and `gain`."""
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
    levels = np.array((0.0, *sound.kinds.onsets, np.inf))
    rate = sound.codec.rate
    wanted, found = (np.histogram(flux(one, rate), levels)[0] + 1.0 for one in (heard.sound, ratio * made))
    odds = np.log(wanted / found)
    bias = np.array(sound.kinds.bias or (0.0,) * len(odds)) + DAMPING * (odds - odds[0])
    bias = np.clip(bias, -LARGEST_BIAS, LARGEST_BIAS)
    kinds = dataclasses.replace(sound.kinds, bias=tuple(round(float(b), 3) for b in bias))
    return dataclasses.replace(sound, kinds=kinds, gain=round(gain, 4))


def with_sound(files: WorldFiles, sound: AudioConfig) -> WorldFiles:
    """The same files with other settings of the sound."""
    return dataclasses.replace(files, config=dataclasses.replace(files.config, audio=sound))
