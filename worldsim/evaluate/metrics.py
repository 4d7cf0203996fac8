"""Figures of pictures, and how sure they are.  Pictures are (N, H, W, 3) uint8; errors count from 0 to 1."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

DRAWS = 1000  # resamples of a bootstrap


def mean_square_error(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of each pair of pictures: (N, H, W, 3) uint8 twice -> (N,) float64."""
    return square_error(a, b).mean((1, 2, 3))


def square_error(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of each value: uint8 arrays of one shape -> float32 in [0, 1]."""
    return np.square((a.astype(np.float32) - b.astype(np.float32)) / 255)


def psnr(mean_square: float | np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of the mean of the given mean square errors.

    Errors are averaged before the logarithm: a mean of PSNRs would be infinite as soon as one picture stands
    still.
    """
    return float(-10 * np.log10(max(float(np.mean(mean_square)), 1e-10)))


def ssim(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Structural similarity (Wang et al. 2004, Gaussian windows) of each pair: (N, H, W, 3) twice -> (N,)."""
    x, y = (torch.from_numpy(p).permute(0, 3, 1, 2).float() / 255 for p in (a, b))
    c1, c2 = 0.01**2, 0.03**2
    mean_x, mean_y = _blur(x), _blur(y)
    var_x, var_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (var_x + var_y + c2)
    return (luminance * structure).mean((1, 2, 3)).double().numpy()


def _blur(x: Tensor) -> Tensor:
    """An 11x11 Gaussian of sigma 1.5, without padding: (N, C, H, W) -> (N, C, H - 10, W - 10)."""
    offsets = torch.arange(-5.0, 6.0)
    kernel = torch.exp(-offsets.square() / (2 * 1.5**2))
    kernel = kernel / kernel.sum()
    planes = x.flatten(0, 1).unsqueeze(1)
    planes = F.conv2d(F.conv2d(planes, kernel.view(1, 1, 11, 1)), kernel.view(1, 1, 1, 11))
    return planes.squeeze(1).unflatten(0, x.shape[:2])


def interval(statistic: Callable[[np.ndarray], float], units: int, *, seed: int = 0) -> list[float]:
    """The middle 95 % of a statistic over bootstrap resamples: [low, high].

    `statistic` maps an index array (units,) int64, drawn with replacement, to a number. The units should be
    independent of each other: clips or episodes, never single pictures. Resamples without a value are left
    out.
    """
    rng = np.random.default_rng(seed)
    values = np.array([statistic(rng.integers(0, units, units)) for _ in range(DRAWS)])
    values = values[np.isfinite(values)]
    return [float(v) for v in np.percentile(values, (2.5, 97.5))] if len(values) else [np.nan, np.nan]


def ratio(a: float, b: float) -> float:
    """a / b, and NaN where b is 0."""
    return float(a) / float(b) if b else np.nan


def luma(pictures: np.ndarray) -> np.ndarray:
    """Brightness as the eye weighs it: (N, H, W, 3) uint8 -> (N, H, W) float32 in [0, 1]."""
    return pictures.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32) / 255


def gradient(pictures: np.ndarray) -> np.ndarray:
    """Size of the brightness gradient at every pixel: (N, H, W, 3) -> (N, H - 1, W - 1) float32."""
    y = luma(pictures)
    return np.hypot(np.diff(y, axis=1)[:, :, :-1], np.diff(y, axis=2)[:, :-1])


def laplacian_variance(pictures: np.ndarray) -> np.ndarray:
    """Variance of the Laplacian of each picture, the usual measure of focus: (N, H, W, 3) -> (N,)."""
    y = luma(pictures)
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
