"""Figures of frames, and how sure they are. Frames are (N, H, W, 3) uint8; errors count from 0 to 1.

SciPy and torchmetrics are imported where they are used: they take seconds, and agents need only the first.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import torch

from worldsim.errors import MissingDependency

DRAWS = 1000  # resamples of a bootstrap
WINDOW = 11  # pixels, side of the windows of SSIM


def require_libraries() -> None:
    """Raise MissingDependency without the libraries of evaluation; asked before a long measurement, not after it."""
    try:
        import scipy  # noqa: F401
        import torchmetrics  # noqa: F401
    except ImportError as error:
        raise MissingDependency(
            f'evaluation needs {error.name}, which is not installed; pip install "worldsim[eval]"'
        ) from error


def mean_square_error(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of each pair of frames: (N, H, W, 3) uint8 twice -> (N,) float64."""
    return square_error(a, b).mean((1, 2, 3))


def square_error(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of each value: uint8 arrays of one shape -> float32 in [0, 1]."""
    return np.square((a.astype(np.float32) - b.astype(np.float32)) / 255)


def psnr(mean_square: float | np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of the mean of the given mean square errors.

    Errors are averaged before the logarithm: a mean of PSNRs would be infinite as soon as one frame stands
    still.
    """
    return float(-10 * np.log10(max(float(np.mean(mean_square)), 1e-10)))


def ssim(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Structural similarity (Wang et al. 2004, Gaussian windows) of each pair: (N, H, W, 3) twice -> (N,).

    Only windows that lie within the frame count, as in the paper; torchmetrics' own mean has those of a mirrored
    border, too.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    x, y = (torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255 for frames in (a, b))  # (N, 3, H, W)
    _, likeness = structural_similarity_index_measure(
        x, y, sigma=1.5, kernel_size=WINDOW, data_range=1.0, reduction="none", return_full_image=True
    )
    edge = WINDOW // 2
    return likeness[..., edge:-edge, edge:-edge].mean((1, 2, 3)).double().numpy()


def interval(statistic: Callable[[np.ndarray], float], units: int, *, seed: int = 0) -> list[float]:
    """The middle 95 % of a statistic over bootstrap resamples: [low, high].

    `statistic` maps an index array (units,) int64, drawn with replacement and sorted, to a number. The units should be
    independent of each other: clips or episodes, never single frames. Resamples without a value are left
    out.
    """
    from scipy.stats import DegenerateDataWarning, bootstrap

    if units < 2:  # which bootstrap refuses: every resample is the same one
        return [statistic(np.zeros(units, np.int64))] * 2
    known: dict[bytes, float] = {}

    def once(index: np.ndarray) -> float:
        """The statistic of a resample; of few units the same ones are drawn again and again."""
        index = np.sort(index)
        key = index.tobytes()
        if key not in known:
            known[key] = statistic(index)
        return known[key]

    rng = np.random.default_rng(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateDataWarning)  # of resamples without a value
        found = bootstrap((np.arange(units),), once, n_resamples=DRAWS, vectorized=False, method="percentile", rng=rng)
    drawn = found.bootstrap_distribution
    values = drawn[np.isfinite(drawn)]
    return [float(v) for v in np.percentile(values, (2.5, 97.5))] if len(values) else [np.nan, np.nan]


def ratio(a: float, b: float) -> float:
    """a / b, and NaN where b is 0."""
    return float(a) / float(b) if b else np.nan


def luma(frames: np.ndarray) -> np.ndarray:
    """Brightness as the eye weighs it: (N, H, W, 3) uint8 -> (N, H, W) float32 in [0, 1]."""
    return frames.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32) / 255


def gradient(frames: np.ndarray) -> np.ndarray:
    """Size of the brightness gradient at every pixel: (N, H, W, 3) -> (N, H - 1, W - 1) float32."""
    y = luma(frames)
    return np.hypot(np.diff(y, axis=1)[:, :, :-1], np.diff(y, axis=2)[:, :-1])


def laplacian_variance(frames: np.ndarray) -> np.ndarray:
    """Variance of the Laplacian of each frame, the usual measure of focus: (N, H, W, 3) -> (N,)."""
    y = luma(frames)
    centre = y[:, 1:-1, 1:-1]
    around = y[:, :-2, 1:-1] + y[:, 2:, 1:-1] + y[:, 1:-1, :-2] + y[:, 1:-1, 2:]
    return (around - 4 * centre).var((1, 2))


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Distance of two clouds of features, (N, D) and (M, D), taken as Gaussians (Dowson and Landau, 1982)."""
    mean = np.square(a.mean(0) - b.mean(0)).sum()
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ cov_b @ root).clip(0)).sum()
    return float(max(mean + np.trace(cov_a) + np.trace(cov_b) - 2 * cross, 0.0))
