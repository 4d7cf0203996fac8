"""Calibrating the sound of a finished world on a recording: dreams are to be as loud, and to begin sounds as often.

A head that prefers what is probable seldom makes what is rare, and in dreams the frames are not quite as recorded. So
what is made of the recording's frames, and then of dreams from them with its actions, is listened to, and what is added
to the log-odds of levels of onset and loudness is changed until each level comes as often as recorded. Then the gain.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from worldsim.data.episodes import Episodes
from worldsim.evaluate.hearing import flux, loudness
from worldsim.evaluate.sound import dream_sound, listen_to, sound_of_frames
from worldsim.io.weights import WorldFiles
from worldsim.models.audio import AudioConfig
from worldsim.world import World

ROUNDS = (4, 4)  # with the recording's frames, then with dreams
SPANS, STEPS = 48, 100  # that are listened to
DAMPING = 0.7  # share of a change that a round makes
MOST = 1.0  # change of log-odds in a round


def calibrate_sound(files: WorldFiles, store: Episodes, *, seed: int = 0, spans: int = SPANS) -> AudioConfig:
    """The settings of the world's sound with which its dreams sound as the recording does: biases and `gain`."""
    sound, heard = files.config.audio, None
    assert sound is not None
    for turn in range(sum(ROUNDS)):
        world = World(with_sound(files, sound), device="cpu").with_audio()
        if heard is None:
            heard = listen_to(world, store, spans, STEPS, seed)
        if turn < ROUNDS[0]:
            made = sound_of_frames(world, heard, seed + turn)
        else:
            made = dream_sound(world, heard, heard.sound.shape[1], seed + turn)
        sound = adjusted(sound, heard.sound, made)
    return sound


def adjusted(sound: AudioConfig, real: np.ndarray, made: np.ndarray) -> AudioConfig:
    """Settings that bring what was `made` with `sound`, (N, T, S, C), nearer to what was recorded."""
    kinds, rate = sound.kinds, sound.codec.rate
    ratio = np.sqrt(np.square(loudness(real)).mean() / max(np.square(loudness(made)).mean(), 1e-12))
    onset = _nearer(kinds.onset_bias, kinds.onsets, flux(real, rate), flux(made, rate))
    loud = _nearer(kinds.loudness_bias, kinds.loudness, loudness(real), loudness(made))
    kinds = dataclasses.replace(kinds, onset_bias=onset, loudness_bias=loud)
    return dataclasses.replace(sound, gain=round(float(np.clip(ratio, 0.5, 2)) * sound.gain, 4), kinds=kinds)


def _nearer(
    bias: tuple[float, ...], levels: tuple[float, ...], real: np.ndarray, made: np.ndarray
) -> tuple[float, ...]:  # fmt: skip
    """The biases with which what was `made` reaches the levels about as often as what is `real`."""
    wanted, found = (np.array([(one >= level).mean() for level in levels]) for one in (real, made))
    least = 0.5 / real.size  # a level that never came is taken to have come half a time
    change = _log_odds(wanted, least) - _log_odds(found, least)
    new = np.array(bias or np.zeros(len(levels))) + np.clip(DAMPING * change, -MOST, MOST)
    return tuple(round(float(value), 4) for value in new)


def _log_odds(share: np.ndarray, least: float) -> np.ndarray:
    share = np.clip(share, least, 1 - least)
    return np.log(share / (1 - share))


def with_sound(files: WorldFiles, sound: AudioConfig) -> WorldFiles:
    """The same files with other settings of the sound."""
    return dataclasses.replace(files, config=dataclasses.replace(files.config, audio=sound))
