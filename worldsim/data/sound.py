"""Recorded sound: whether stores have it and agree on it, how loud it is, and its latents as a stream to learn."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch

from worldsim.data.episodes import Episodes
from worldsim.errors import InvalidInput
from worldsim.models.audio_codec import AudioCodec, to_float

BLOCK = 512  # rows read at a time
SILENT = (
    1  # the largest sample of a recording that is taken for silent: a simulator's, where a sound library is missing
)


@dataclass(frozen=True)
class SoundFormat:
    """What the stores of one training have in common."""

    rate: float  # samples a second
    samples: int  # a step
    channels: int


def sound_format(stores: Sequence[Episodes], stream: str = "audio") -> SoundFormat:
    """The format of the stores' sound.

    Raises InvalidInput where a store has no sound, another rate or number of channels than the others, or a type or
    shape that is no sound's.
    """
    formats = [_format(store, stream) for store in stores]
    for store, found in zip(stores, formats, strict=True):
        if found != formats[0]:
            raise InvalidInput(
                f"episode stores {stores[0].path} and {store.path} have sound of {formats[0].rate:g} and "
                f"{found.rate:g} samples a second in {formats[0].channels} and {found.channels} channels; record both "
                "alike, or train on one of them"
            )
    return formats[0]


def _format(store: Episodes, stream: str) -> SoundFormat:
    spec = store.meta.streams.get(stream)
    if spec is None or spec.kind != "audio":
        raise InvalidInput(f"episode store {store.path} has no sound; record it again with --sound")
    if spec.dtype != "int16" or len(spec.shape) != 2 or spec.shape[1] not in (1, 2):
        raise InvalidInput(
            f"the sound of episode store {store.path} is {spec.dtype} {spec.shape} a step; record int16 samples of one "
            "channel or two, (samples, channels)"
        )
    return SoundFormat(spec.shape[0] * store.meta.fps, *spec.shape)


def sound_level(stores: Sequence[Episodes], stream: str = "audio") -> float:
    """RMS of all recorded sound, full scale being 1. Raises InvalidInput where a store is silent throughout."""
    squares, count = 0.0, 0
    for store in stores:
        loudest = 0
        for start in range(0, store.num_steps, BLOCK):
            rows = store.read(stream, start, min(start + BLOCK, store.num_steps)).astype(np.int32)
            loudest = max(loudest, int(np.abs(rows).max()))
            squares, count = squares + float(np.square(rows, dtype=np.float64).sum()), count + rows.size
        if loudest <= SILENT:
            raise InvalidInput(
                f"the sound of episode store {store.path} is silent throughout; see that the simulator can make sound "
                "(`worldsim info` knows of missing libraries), and record it again"
            )
    return float(np.sqrt(squares / count)) / 32_768


def heard_rows(store: Episodes) -> np.ndarray:
    """(T,) bool, the rows whose sound counts: where a game ends, some simulators give none of its last step."""
    return ~store.read("terminated", 0, store.num_steps)


class CodecEncoder:
    """Makes the recorded sound of whole episodes into latents: a `worldsim.data.stream_cache.StreamEncoder`."""

    def __init__(self, codec: AudioCodec) -> None:
        self.codec = codec
        digest = hashlib.sha256(repr(sorted(asdict(codec.config).items())).encode())
        for tensor in codec.state_dict().values():
            digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
        self._digest = digest.hexdigest()[:12]

    @property
    def digest(self) -> str:
        """A short name for these very weights."""
        return self._digest

    def row_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """(latents * dim,); raises InvalidInput for sound of another format."""
        c = self.codec.config
        if shape != (c.samples, c.channels):
            raise InvalidInput(
                f"a step's sound is {shape}, the audio codec was trained on {(c.samples, c.channels)}; record alike"
            )
        return (c.numbers,)

    @torch.no_grad()
    def encode(self, rows: np.ndarray) -> np.ndarray:
        """(T, S, C) int16 of one episode -> (T, latents * dim) float32."""
        device = self.codec.log_rms.device
        sound = to_float(torch.from_numpy(np.ascontiguousarray(rows)).to(device)).flatten(0, 1)[None]
        return self.codec.encode(sound)[0][0].flatten(1).cpu().numpy()
