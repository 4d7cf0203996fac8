"""All randomness of a world: a pure function of (seed, episode, step, stream), drawn from a counter-based generator.

No draw depends on earlier draws, on the other worlds of a batch, or on how often a step was computed; so a saved
state continues bit for bit, and a step that was computed ahead of time equals the same step computed on demand.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

STREAM_START = 0  # which recorded start an episode begins from
STREAM_CONTEXT = 1  # noise added to the previous frame
STREAM_FRAME = 3  # the noise a frame is denoised from
STREAM_END = 4  # whether the episode ends here
STREAM_SHAPING = 5  # where the noise of a frame is larger (`worldsim.sampling.noise_shaping`)
STREAM_AUDIO = 6  # the noise that the sound of a step is drawn from
STREAM_ACTIONS = 7  # the noise that actions are drawn from
STREAM_NEXT = 8  # what stands for a frame that is not known, when they are

SEED_LIMIT = 1 << 63  # states and infos keep seeds in int64 arrays

_MASK = (1 << 64) - 1


def fold_seed(seed: int) -> int:
    """The seed in [0, 2**63) that stands for an integer `seed` of any size; smaller ones stay as they are.

    Frameworks draw seeds of 64 bits and more (Minari does). A hash keeps different ones different, where the lowest
    bits alone would make 2**63 and 0 the same episode. The result stands for itself, so a seed that was reported begins
    the same episode again.
    """
    if seed < SEED_LIMIT:
        return seed
    return int.from_bytes(hashlib.sha256(str(seed).encode()).digest()[:8]) >> 1


def generator(seed: int, episode: int, step: int, stream: int) -> np.random.Generator:
    """A fresh generator for one purpose (`stream`) at one step of one episode; Philox (Salmon et al., 2011)."""
    key = np.array([seed & _MASK, episode & _MASK], dtype=np.uint64)
    counter = np.array([0, step & _MASK, stream, 0], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


Numbers = Sequence[int] | np.ndarray


def normal(seeds: Numbers, episodes: Numbers, steps: Numbers, stream: int, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal noise (B, *shape) float32, one independent draw a world."""
    return _draw(seeds, episodes, steps, stream, shape, lambda g, row: g.standard_normal(dtype=np.float32, out=row))


def uniform(seeds: Numbers, episodes: Numbers, steps: Numbers, stream: int, shape: tuple[int, ...]) -> np.ndarray:
    """Uniform noise in [0, 1), (B, *shape) float32, one independent draw a world."""
    return _draw(seeds, episodes, steps, stream, shape, lambda g, row: g.random(dtype=np.float32, out=row))


def _draw(
    seeds: Numbers,
    episodes: Numbers,
    steps: Numbers,
    stream: int,
    shape: tuple[int, ...],
    fill: Callable[[np.random.Generator, np.ndarray], object],
) -> np.ndarray:
    """What a fresh `generator` of every row would draw."""
    drawn = np.empty((len(seeds), math.prod(shape)), np.float32)
    bits = np.random.Philox(key=0)
    one = np.random.Generator(bits)
    # Setting the state of one generator takes a third of the time of making another.
    state: Any = bits.state
    counter, key = state["state"]["counter"], state["state"]["key"]
    for row, seed, episode, step in zip(drawn, seeds, episodes, steps, strict=True):
        key[:] = int(seed) & _MASK, int(episode) & _MASK
        counter[:] = 0, int(step) & _MASK, stream, 0
        bits.state = state
        fill(one, row)
    return drawn.reshape(len(seeds), *shape)
