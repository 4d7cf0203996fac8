"""The picture of some runs: returns in training, and in the dream and the real game at every stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from worldsim.evaluate.plots import require_matplotlib
from worldsim.policies.judge import TRAINED_IN

COLOURS = {"dream": "tab:blue", TRAINED_IN: "tab:cyan", "real": "tab:red"}


def save_curves(path: Path, runs: dict[str, list[dict[str, Any]]], levels: dict[str, float] | None = None) -> None:
    """Draw the points of each run (`Training.points`); `levels` are returns to compare with, drawn as lines."""
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for index, (name, points) in enumerate(runs.items()):
        trained = [p for p in points if "return_in_training" in p]
        axes.plot(
            [p["steps"] for p in trained], [p["return_in_training"] for p in trained],
            color="grey", alpha=0.5, label="in training" if index == 0 else None,
        )  # fmt: skip
        for place in sorted({place for p in points for place in p.get("scores", {})}):
            judged = [p for p in points if place in p.get("scores", {})]
            scores = [p["scores"][place] for p in judged]
            means = [s["mean_return"] for s in scores]
            low, high = zip(*(s["return_ci"] for s in scores), strict=True)
            spread = np.abs(np.array([low, high]) - means)
            marker = "osv^D"[index % 5]
            axes.errorbar(
                [p["steps"] for p in judged], means, yerr=spread, color=COLOURS.get(place), marker=marker, capsize=3,
                label=f"{name}, {place}",
            )  # fmt: skip
    for style, (name, level) in zip(("--", ":", "-.", (0, (1, 4)), (0, (5, 5))), (levels or {}).items(), strict=False):
        axes.axhline(level, color="black", linewidth=0.8, linestyle=style, label=name)
    axes.set(xlabel="decisions of the agent", ylabel="return of an episode")
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    axes.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
