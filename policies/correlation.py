"""How well two places agree about policies: correlations of their scores, and the cost of wrong ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

DRAWS = 1000  # of the episodes of every policy, for an interval


def agreement(dream: Sequence[float], real: Sequence[float]) -> dict[str, float]:
    """Of policies by their scores in both places: Pearson's r, Spearman's rank correlation, and "mmrv".

    The last is the mean maximum rank violation of Li et al. (SIMPLER, 2024), in units of the score: for every policy
    the largest real difference to one that the dream ranks wrongly beside it, averaged; 0 if all are ranked right.
    Policies that all score alike have no correlation: NaN.
    """
    d, r = np.asarray(dream, np.float64), np.asarray(real, np.float64)
    wrong = (d[:, None] < d[None]) != (r[:, None] < r[None])
    violations = np.abs(r[:, None] - r[None]) * wrong
    return {
        "pearson": _correlation(d, r),
        "spearman": _correlation(_ranks(d), _ranks(r)),
        "mmrv": float(violations.max(1).mean()),
    }


def pearson_interval(dream: Sequence[Sequence[float]], real: Sequence[Sequence[float]], seed: int = 0) -> list[float]:
    """95 % of the correlation of mean scores, by drawing every policy's episodes anew: [low, high]."""
    return bootstrap(dream, real, _correlation, seed)


def mmrv_interval(dream: Sequence[Sequence[float]], real: Sequence[Sequence[float]], seed: int = 0) -> list[float]:
    """95 % of the mean maximum rank violation, likewise."""
    return bootstrap(dream, real, lambda d, r: agreement(d.tolist(), r.tolist())["mmrv"], seed)


def bootstrap(
    dream: Sequence[Sequence[float]],
    real: Sequence[Sequence[float]],
    measure: Callable[[np.ndarray, np.ndarray], float],
    seed: int = 0,
) -> list[float]:
    """95 % of a measure of mean scores, by drawing every policy's episodes anew: [low, high]."""
    rng = np.random.default_rng(seed)

    def means(returns: Sequence[Sequence[float]]) -> np.ndarray:
        """(DRAWS, policies)."""
        return np.stack([rng.choice(np.asarray(one), (DRAWS, len(one))).mean(1) for one in returns], axis=1)

    drawn = np.array([measure(d, r) for d, r in zip(means(dream), means(real), strict=True)])
    drawn = drawn[~np.isnan(drawn)]  # of draws in which all policies score alike
    return [float(value) for value in np.quantile(drawn, (0.025, 0.975))] if len(drawn) else [float("nan")] * 2


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    if len(a) < 2 or not a.std() or not b.std():
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0; equal values share the mean of theirs."""
    below, equal = (values[None] < values[:, None]).sum(1), (values[None] == values[:, None]).sum(1)
    return below + (equal - 1) / 2
