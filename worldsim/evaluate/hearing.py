"""Figures of sound: onsets, loudness, clicks, mel spectra. Sound is (N, T, S, C) in [-1, 1]: spans of T steps.

An onset is a step at which the spectrum grows: spectral flux of the magnitudes in 40 mel bands, six hops a step and
windows of four hops, the largest of a step, a local maximum within one step. Bands, because the single bins of noise
fluctuate. The strongest onsets count: as large a share of the steps in the recording and in what is compared with it,
so that loudness, which has figures of its own, does not enter. `mir_eval` matches them one to one within a step.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from worldsim.errors import MissingDependency
from worldsim.models.onsets import HOPS, WINDOW, mel_filters

SILENCE = 1e-3  # RMS of a step below which it is silent: -60 dB of full scale
MEL_WINDOW = 512  # samples


def require_mir_eval() -> None:
    """Raise MissingDependency without the library that matches onsets."""
    try:
        import mir_eval  # noqa: F401
    except ImportError as error:
        raise MissingDependency(
            'measuring sound needs mir_eval, which is not installed; pip install "worldsim[eval]"'
        ) from error


def flux(sound: np.ndarray, rate: float) -> np.ndarray:
    """Onset strength of every step, (N, T): 0 where no local maximum lies; that of a span's first step is 0."""
    spans, steps, samples, _ = sound.shape
    mono = sound.mean(-1).reshape(spans, -1)
    hop = max(samples // HOPS, 1)
    size = WINDOW * hop
    padded = np.pad(mono, ((0, 0), (size - hop, size)))  # windows end with their hop: no onset is foreseen
    frames = np.lib.stride_tricks.sliding_window_view(padded, size, axis=1)[:, ::hop][:, : steps * samples // hop]
    power = np.square(np.abs(np.fft.rfft(frames * np.hanning(size).astype(np.float32), axis=-1)))
    bands = np.sqrt(power @ mel_filters(size, rate).T)  # (N, hops, MELS)
    rise = np.maximum(np.diff(bands, axis=1, prepend=bands[:, :1]), 0).sum(-1)  # (N, hops)
    at = np.minimum(np.arange(rise.shape[1]) * hop // samples, steps - 1)
    strength = np.zeros((spans, steps), np.float32)
    for hop_number, step in enumerate(at):
        strength[:, step] = np.maximum(strength[:, step], rise[:, hop_number])
    strength[:, 0] = 0
    around = np.pad(strength, ((0, 0), (1, 1)))
    peaks = (strength >= around[:, :-2]) & (strength > around[:, 2:])
    return strength * peaks


def strongest(strength: np.ndarray, count: int) -> np.ndarray:
    """The `count` strongest onsets, (N, T) bool; fewer where fewer are there."""
    flat = strength.ravel()
    order = np.argsort(-flat, kind="stable")[:count]
    chosen = np.zeros(flat.shape, bool)
    chosen[order[flat[order] > 0]] = True
    return chosen.reshape(strength.shape)


def match_onsets(real: np.ndarray, made: np.ndarray) -> dict[str, float]:
    """F1, precision and recall of onsets (N, T) bool within one step, of all spans together."""
    from mir_eval.onset import f_measure

    # In steps. Spans lie one after another, too far apart for matches between them.
    times = [np.flatnonzero(np.pad(onsets, ((0, 0), (0, 10)))).astype(float) for onsets in (real, made)]
    if not all(len(one) for one in times):
        return {"f1": 0.0, "precision": 0.0, "recall": 0.0}
    f1, precision, recall = f_measure(*times, window=1.0)
    return {"f1": float(f1), "precision": float(precision), "recall": float(recall)}


def loudness(sound: np.ndarray) -> np.ndarray:
    """RMS of every step, (N, T)."""
    return np.sqrt(np.square(sound, dtype=np.float64).mean((2, 3)))


def decibels(ratio: float) -> float:
    """A ratio of amplitudes in dB; -inf for 0."""
    return float(20 * np.log10(ratio)) if ratio > 0 else float("-inf")


def clicks(sound: np.ndarray) -> float:
    """Mean square of the jump from sample to sample at the borders of steps, over that inside of steps."""
    spans, steps, samples, channels = sound.shape
    jumps = np.square(np.diff(sound.reshape(spans, steps * samples, channels), axis=1), dtype=np.float64)
    border = np.arange(1, steps) * samples - 1
    inside = np.delete(jumps, border, axis=1).mean()
    return float(jumps[:, border].mean() / max(inside, 1e-20))


def mel_distance(real: np.ndarray, made: np.ndarray, rate: float) -> float:
    """Fréchet distance of log-mel spectra, 40 bands, windows of 512 samples: our own measure, for comparisons here.

    It is no Fréchet audio distance: no network that was trained elsewhere is part of it.
    """
    (a, b), (c, d) = (_moments(_log_mels(sound, rate)) for sound in (real, made))
    roots = np.sqrt(np.maximum(np.linalg.eigvals(b @ d).real, 0))  # of the product of two covariances
    return float(np.square(a - c).sum() + np.trace(b + d) - 2 * roots.sum())


def _moments(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return rows.mean(0), np.cov(rows, rowvar=False)


def _log_mels(sound: np.ndarray, rate: float) -> np.ndarray:
    """(frames, bands) of all spans."""
    mono = sound.mean(-1).reshape(len(sound), -1)
    size = min(MEL_WINDOW, mono.shape[1])
    frames = np.lib.stride_tricks.sliding_window_view(mono, size, axis=1)[:, :: max(size // 2, 1)].reshape(-1, size)
    power = np.square(np.abs(np.fft.rfft(frames * np.hanning(size), axis=-1)))
    return np.log(power @ mel_filters(size, rate).T + 1e-6)


def envelope_correlation(real: np.ndarray, made: np.ndarray) -> float:
    """Pearson's correlation of the loudness of steps; NaN where one of them does not vary."""
    a, b = (loudness(sound).ravel() for sound in (real, made))
    if a.std() < 1e-9 or b.std() < 1e-9:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def compare(real: np.ndarray, made: np.ndarray, shares: tuple[float, ...], rate: float) -> dict[str, Any]:
    """All figures of sound beside the recorded one of the same spans."""
    ours, theirs = flux(real, rate), flux(made, rate)
    figures: dict[str, Any] = {}
    for share in shares:
        count = max(round(share * ours.size), 1)
        onsets = strongest(ours, count)
        least = ours[onsets].min()
        figures[f"onsets_{share:g}"] = {
            **match_onsets(onsets, strongest(theirs, count)), "onsets": int(onsets.sum()),
            "rate_ratio": float((theirs >= least).sum() / onsets.sum()),
        }  # fmt: skip
    loud, made_loud = loudness(real), loudness(made)
    rms, made_rms = (float(np.sqrt(np.square(one).mean())) for one in (loud, made_loud))
    return figures | {
        "loudness_db": decibels(made_rms / max(rms, 1e-12)), "silent_share": float((made_loud < SILENCE).mean()),
        "real_silent_share": float((loud < SILENCE).mean()), "envelope_correlation": envelope_correlation(real, made),
        "mel_distance": mel_distance(real, made, rate), "clicks": clicks(made), "real_clicks": clicks(real),
    }  # fmt: skip
