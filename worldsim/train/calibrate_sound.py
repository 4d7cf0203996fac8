"""Calibrating the sound of a finished world on a recording: dreams are to be as loud, and to begin sounds as often.

A head that prefers what is probable seldom makes what is rare. So what is added to the log-odds of levels of onset and
loudness is changed until each level is chosen as often for the recording's frames as it was recorded. In dreams frames
are not quite as recorded: they are listened to, too, and the biases and the gain changed until they sound so as often.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from worldsim.data.episodes import Episodes
from worldsim.evaluate.hearing import flux, loudness
from worldsim.evaluate.sound import dream_sound, listen_to, made_of_frames
from worldsim.io.weights import WorldFiles
from worldsim.models.audio import AudioConfig, SoundKinds
from worldsim.world import World

ROUNDS, DREAMS = 8, 3  # that choose kinds for the recording's frames, then that dream
SPANS, STEPS = 48, 100  # that are listened to
DAMPING = 0.7  # share of a change that a round makes
MOST = 1.5  # change of log-odds in a round


def calibrate_sound(files: WorldFiles, store: Episodes, *, seed: int = 0, spans: int = SPANS) -> AudioConfig:
    """The settings of the world's sound with which its dreams sound as the recording does: biases and `gain`."""
    sound = files.config.audio
    assert sound is not None
    heard = listen_to(World(files, device="cpu"), store, spans, STEPS, seed)
    for turn in range(ROUNDS):
        few = dataclasses.replace(sound, candidates=1)  # kinds do not depend on the sounds that are drawn
        world = World(with_sound(files, few), device="cpu").with_audio()
        sound = as_often(sound, heard.sound, made_of_frames(world, heard, seed + turn)[1])
    for turn in range(DREAMS):
        world = World(with_sound(files, sound), device="cpu").with_audio()
        sound = adjusted(sound, heard.sound, dream_sound(world, heard, heard.sound.shape[1], seed + turn))
    return sound


def as_often(sound: AudioConfig, real: np.ndarray, chosen: np.ndarray) -> AudioConfig:
    """Settings with which levels are chosen more nearly as often as in what was recorded, (N, T, S, C).

    `chosen` (N, T) are kinds that were chosen with `sound`.
    """
    kinds = sound.kinds
    onset, loud = np.divmod(chosen, kinds.levels[1])
    wanted = _shares(flux(real, sound.codec.rate), kinds.onsets), _shares(loudness(real), kinds.loudness)
    found = _shares(onset, range(1, kinds.levels[0])), _shares(loud, range(1, kinds.levels[1]))
    return dataclasses.replace(sound, kinds=_nearer(kinds, wanted, found, chosen.size))


def adjusted(sound: AudioConfig, real: np.ndarray, made: np.ndarray) -> AudioConfig:
    """Settings that bring what was `made` with `sound`, (N, T, S, C), nearer to what was recorded."""
    kinds, rate = sound.kinds, sound.codec.rate
    ratio = np.sqrt(np.square(loudness(real)).mean() / max(np.square(loudness(made)).mean(), 1e-12))
    gain = float(np.clip(ratio, 0.5, 2)) ** 0.5 * sound.gain  # half of it, since levels change the loudness, too
    wanted, found = (
        (_shares(flux(one, rate), kinds.onsets), _shares(loudness(one), kinds.loudness)) for one in (real, made)
    )
    steps = real.shape[0] * real.shape[1]
    return dataclasses.replace(sound, gain=round(gain, 4), kinds=_nearer(kinds, wanted, found, steps))


Shares = tuple[np.ndarray, np.ndarray]  # of the steps that reach each level of onset, and of loudness


def _shares(values: np.ndarray, edges: Sequence[float]) -> np.ndarray:
    """Shares of the steps (N, T) that reach each edge."""
    return np.array([(values >= edge).mean() for edge in edges])


def _nearer(kinds: SoundKinds, wanted: Shares, found: Shares, steps: int) -> SoundKinds:
    """Kinds whose levels come about as often as is wanted, where with `kinds` they came as often as was found."""
    least = 0.5 / steps  # a level that never came is taken to have come half a time
    new = []
    for bias, *shares in zip((kinds.onset_bias, kinds.loudness_bias), wanted, found, strict=True):
        odds = [np.log(share / (1 - share)) for share in (np.clip(one, least, 1 - least) for one in shares)]
        change = np.clip(DAMPING * (odds[0] - odds[1]), -MOST, MOST)
        new.append(tuple(round(float(value), 4) for value in (np.array(bias) if bias else 0) + change))
    return dataclasses.replace(kinds, onset_bias=new[0], loudness_bias=new[1])


def with_sound(files: WorldFiles, sound: AudioConfig) -> WorldFiles:
    """The same files with other settings of the sound."""
    return dataclasses.replace(files, config=dataclasses.replace(files.config, audio=sound))
