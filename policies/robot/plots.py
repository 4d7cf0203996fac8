"""The success rates of robot policies in the dream against those in the real simulator."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from worldsim.evaluate.plots import require_matplotlib
from worldsim.io.media import save_figure

if TYPE_CHECKING:
    from worldsim.policies.robot.evaluation import Verdict


def save_scatter(path: Path, verdicts: Sequence[Verdict]) -> None:
    """A point for every policy and task that was played in both places, with 95 % intervals; a colour a task."""
    require_matplotlib()
    from matplotlib.figure import Figure

    from worldsim.policies.robot.evaluation import interval

    figure = Figure(figsize=(6, 6), layout="constrained")
    axes = figure.subplots()
    for number, task in enumerate(dict.fromkeys(v.task for v in verdicts)):
        label: str | None = task or None
        for v in verdicts:
            if v.task != task or v.real is None:
                continue
            x, y = float(v.real.success.mean()), float(v.dream.success.mean())
            across, up = (
                np.abs(np.array(interval(played.success))[:, None] - mean)
                for played, mean in ((v.real, x), (v.dream, y))
            )
            axes.errorbar(
                x, y, xerr=across, yerr=up, fmt="o", capsize=2, markersize=4, color=f"C{number % 10}", elinewidth=0.6,
                label=label,
            )  # fmt: skip
            axes.annotate(_short(v.policy), (x, y), xytext=(4, 4), textcoords="offset points", fontsize=6)
            label = None
    axes.plot((0, 1), (0, 1), color="black", linewidth=0.8, linestyle=":")
    axes.set(xlim=(-0.05, 1.05), ylim=(-0.05, 1.05))
    axes.set(xlabel="success rate in the real simulator", ylabel="in the dream")
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize=8)
    save_figure(path, figure, dpi=120)


def _short(policy: str) -> str:
    """A policy's name beside its point: of a path the last part."""
    return policy if "/" not in policy else Path(policy.split(":")[-1]).stem
