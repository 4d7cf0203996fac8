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
from worldsim.policies.evaluate import Score
from worldsim.policies.judge import Judge, Scores, format_table
from worldsim.policies.observation import ObservationConfig
from worldsim.world import World


@dataclass(frozen=True)
class Comparison:
    """Blind policies with their scores in the world and in the real game, and how well the two places agree."""

    scores: dict[str, Scores]  # by the name of the policy
    agreement: dict[str, float]

    def to_text(self) -> str:
        """A Markdown table, and a line of figures."""
        figures = ", ".join(f"{name} {value:.2f}" for name, value in self.agreement.items())
        return f"{format_table(self.scores, {})}\n{figures}"

    def save(self, out: Path) -> None:
        """Write `policies.png` and `policies.json`."""
        save_scatter(out / "policies.png", self.scores)
        rows: dict[str, Any] = {name: {k: score.to_json() for k, score in s.items()} for name, s in self.scores.items()}
        write_json(out / "policies.json", {"agreement": self.agreement, "policies": rows})


def compare_policies(
    world: World,
    *,
    episodes: int,
    periods: Sequence[int],
    trust_source: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> Comparison:
    """Play policies that do not look at the frames in the world and in the real game, `episodes` in either.

    Those that take two actions in turn hold each for one of `periods` steps. `tell` is called with a line after each.
    """
    # What blind policies see is of no use to them: latents cost the world no decoding.
    judge = Judge(world, ObservationConfig(stack=1, hold=1), episodes=episodes, trust_source=trust_source)
    scores: dict[str, Scores] = {}
    try:
        for name, policy in blind_policies(world.spec.actions, periods).items():
            scores[name] = judge(policy)
            tell(name + ": " + ", ".join(f"{place} {score}" for place, score in scores[name].items()))
    finally:
        judge.close()
    dream, real = ([s[place].mean_length for s in scores.values()] for place in ("dream", "real"))
    return Comparison(scores, agreement(dream, real))


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
    """Draw every policy's mean episode length in the dream against that in the real game, with 95 % intervals."""
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 6), layout="constrained")
    axes = figure.subplots()
    for name, places in scores.items():
        x, y = places["real"], places["dream"]
        spread = [np.abs(np.array([s.length_interval()]).T - s.mean_length) for s in (x, y)]
        axes.errorbar(x.mean_length, y.mean_length, xerr=spread[0], yerr=spread[1], fmt="o", capsize=2, markersize=4)
        axes.annotate(name, (x.mean_length, y.mean_length), xytext=(4, 4), textcoords="offset points", fontsize=6)
    ends = [end for places in scores.values() for s in places.values() for end in s.length_interval()]
    limits = min(ends) / 1.1, max(ends) * 1.1
    axes.plot(limits, limits, color="black", linewidth=0.8, linestyle=":")
    axes.set(xscale="log", yscale="log", xlim=limits, ylim=limits)
    axes.set(xlabel="episode length in the real game, steps", ylabel="in the dream, steps")
    save_figure(path, figure, dpi=120)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    if len(a) < 2 or not a.std() or not b.std():
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0; equal values share the mean of theirs."""
    below, equal = (values[None] < values[:, None]).sum(1), (values[None] == values[:, None]).sum(1)
    return below + (equal - 1) / 2
