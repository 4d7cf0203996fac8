"""Whether a dream tells which policies are better in the real game: how well the two places agree about them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worldsim.evaluate.plots import require_matplotlib
from worldsim.io.files import write_json
from worldsim.io.media import save_figure
from worldsim.policies.baselines import blind_policies
from worldsim.policies.drivers import OBSERVATION, driver
from worldsim.policies.evaluate import Score
from worldsim.policies.judge import Judge, Scores, format_table
from worldsim.policies.observation import ObservationConfig
from worldsim.policies.rollouts import Workers
from worldsim.world import World

DRAWS = 1000  # of the episodes of every policy, for the interval of the correlation


@dataclass(frozen=True)
class Comparison:
    """Policies with their scores in the world and in the real game, and how well the two places agree by return."""

    scores: dict[str, Scores]  # by the name of the policy
    agreement: dict[str, float]  # "pearson", "spearman", "mmrv" of mean returns
    pearson_interval: list[float]  # 95 %, by bootstrap over the episodes of each policy

    def to_text(self) -> str:
        """A Markdown table, and a line of figures."""
        low, high = self.pearson_interval
        figures = ", ".join(f"{name} {value:.2f}" for name, value in self.agreement.items())
        return f"{format_table(self.scores, {})}\nby mean return: {figures}; pearson from {low:.2f} to {high:.2f}"

    def save(self, out: Path) -> None:
        """Write `policies.png` and `policies.json`."""
        save_scatter(out / "policies.png", self.scores)
        rows: dict[str, Any] = {name: {k: score.to_json() for k, score in s.items()} for name, s in self.scores.items()}
        agreed = {**self.agreement, "pearson_ci": self.pearson_interval}
        write_json(out / "policies.json", {"agreement": agreed, "policies": rows})


def compare_policies(
    world: World,
    *,
    episodes: int,
    periods: Sequence[int],
    policies: Sequence[str] = (),
    trust_source: bool = False,
    workers: Workers | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Comparison:
    """Play policies in the world and in the real game, `episodes` in either.

    `policies` names data policies that look at the frame alone, as `worldsim record --policy` takes them. Without any,
    policies are played that do not look: those that take two actions in turn hold each for one of `periods` steps.
    `workers` play them, by default this process. `tell` is called with a line after each.
    """
    # What blind policies see is of no use to them: latents cost the world no decoding.
    observation = OBSERVATION if policies else ObservationConfig(stack=1, hold=1)
    played: dict[str, Any] = {name: driver(world, name) for name in policies}
    judge = Judge(world, observation, episodes=episodes, trust_source=trust_source, workers=workers)
    scores: dict[str, Scores] = {}
    try:
        for name, policy in (played or blind_policies(world.spec.actions, periods)).items():
            scores[name] = judge(policy)
            tell(name + ": " + ", ".join(f"{place} {score.mean:.1f}" for place, score in scores[name].items()))
    finally:
        judge.close()
    dream, real = ([s[place].returns for s in scores.values()] for place in ("dream", "real"))
    means = [[float(np.mean(returns)) for returns in place] for place in (dream, real)]
    return Comparison(scores, agreement(*means), pearson_interval(dream, real))


def pearson_interval(dream: Sequence[Sequence[float]], real: Sequence[Sequence[float]], seed: int = 0) -> list[float]:
    """95 % of the correlation of mean returns, by drawing every policy's episodes anew: [low, high]."""
    rng = np.random.default_rng(seed)

    def means(returns: Sequence[Sequence[float]]) -> np.ndarray:
        """(DRAWS, policies)."""
        return np.stack([rng.choice(np.asarray(one), (DRAWS, len(one))).mean(1) for one in returns], axis=1)

    drawn = np.array([_correlation(d, r) for d, r in zip(means(dream), means(real), strict=True)])
    drawn = drawn[~np.isnan(drawn)]  # of draws in which all policies score alike
    return [float(value) for value in np.quantile(drawn, (0.025, 0.975))] if len(drawn) else [float("nan")] * 2


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


def save_scatter(path: Path, scores: dict[str, dict[str, Score]]) -> None:
    """Draw every policy's mean return in the dream against that in the real game, with 95 % intervals."""
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 6), layout="constrained")
    axes = figure.subplots()
    for name, places in scores.items():
        x, y = places["real"], places["dream"]
        spread = [np.abs(np.array([s.interval()]).T - s.mean) for s in (x, y)]
        axes.errorbar(x.mean, y.mean, xerr=spread[0], yerr=spread[1], fmt="o", capsize=2, markersize=4)
        axes.annotate(name, (x.mean, y.mean), xytext=(4, 4), textcoords="offset points", fontsize=6)
    ends = [end for places in scores.values() for s in places.values() for end in s.interval()]
    low, high = min(ends), max(ends)
    if low > 0:
        limits, scale = (low / 1.1, high * 1.1), "log"
    else:
        limits, scale = (low - 0.05 * (high - low), high + 0.05 * (high - low)), "linear"
    axes.plot(limits, limits, color="black", linewidth=0.8, linestyle=":")
    axes.set(xscale=scale, yscale=scale, xlim=limits, ylim=limits)
    axes.set(xlabel="mean return in the real game", ylabel="in the dream")
    save_figure(path, figure, dpi=120)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    if len(a) < 2 or not a.std() or not b.std():
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0; equal values share the mean of theirs."""
    below, equal = (values[None] < values[:, None]).sum(1), (values[None] == values[:, None]).sum(1)
    return below + (equal - 1) / 2
