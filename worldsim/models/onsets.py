"""How strongly a sound begins: spectral flux in mel bands, of tensors, with what came before it given.

It is measured here, where sound is made, and in `worldsim.evaluate.hearing`, where what is made is judged.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

HOPS = 6  # of a step, for the spectral flux
WINDOW = 4  # hops in a window
MELS = 40  # bands


def past_samples(samples: int) -> int:
    """Samples before a step of `samples` that its onset depends on."""
    return WINDOW * max(samples // HOPS, 1)


def onset_strength(sound: Tensor, samples: int, rate: float) -> Tensor:
    """Onset strength (B,) of a step that ends mono sound (B, past_samples + samples): the largest rise of its hops."""
    hop = max(samples // HOPS, 1)
    size = WINDOW * hop
    frames = sound.unfold(1, size, hop)  # (B, 1 + hops, size)
    shape, filters = _window(size, rate, sound.device)
    power = torch.fft.rfft(frames * shape).abs().square()
    bands = (power @ filters).sqrt()  # (B, 1 + hops, MELS)
    return bands.diff(dim=1).clamp_min(0).sum(-1).amax(-1)


@lru_cache(maxsize=8)
def _window(size: int, rate: float, device: torch.device) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False):  # they are kept, and may be used outside of it
        filters = torch.from_numpy(mel_filters(size, rate).T.astype(np.float32))
        return torch.from_numpy(np.hanning(size).astype(np.float32)).to(device), filters.to(device)


def mel_filters(size: int, rate: float) -> np.ndarray:
    """Triangles on the mel scale (Stevens et al., 1937), (MELS, size // 2 + 1)."""
    top = 2595 * np.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, MELS + 2) / 2595) - 1)
    bins = np.fft.rfftfreq(size, 1 / rate)
    low, mid, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    return np.maximum(0, np.minimum((bins - low) / (mid - low), (high - bins) / (high - mid)))
