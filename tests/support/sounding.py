"""The lively world with a sound of random weights: 40 samples a step, in stereo."""

from __future__ import annotations

import dataclasses

import torch
from lively import enliven, lively_files

from worldsim.io.weights import WorldFiles
from worldsim.models.audio import AudioConfig, AudioHead, SoundKinds
from worldsim.models.audio_codec import AudioCodecConfig
from worldsim.models.endings import EndingConfig
from worldsim.world import World

SOUND = AudioConfig(
    AudioCodecConfig(rate=700, samples=40, frames=4, dim=4, width=12),
    SoundKinds(onsets=(1.0,), loudness=(0.1, 0.2), rms=(0.05, 0.15, 0.3)),
    features=8, width=12, hidden=16, steps=2, candidates=2,
)  # fmt: skip


def sounding_files(seed: int = 0, **options: object) -> WorldFiles:
    """Files of `lively_files` and of a head that makes its sound."""
    files = lively_files(seed, **options)  # type: ignore[arg-type]
    torch.manual_seed(seed)
    weights = enliven(AudioHead(SOUND, files.config.dynamics).state_dict(), seed)
    config = dataclasses.replace(files.config, audio=SOUND, endings=EndingConfig(shift=-1000.0))  # that never ends
    return dataclasses.replace(files, config=config, audio=weights)


def sounding_world(seed: int = 0, **options: object) -> World:
    """The world of `sounding_files`, on the CPU, silent until it is asked for its sound."""
    return World(sounding_files(seed, **options), device="cpu")
