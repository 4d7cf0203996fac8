"""Runs stage by stage: their returns in training, in the dream and in the real game, as a plot and as a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from worldsim.evaluate.plots import require_matplotlib
from worldsim.io.media import save_figure
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
    save_figure(path, figure, dpi=120)


def format_stages(points: list[dict[str, Any]]) -> str:
    """A Markdown table of the stages of a run (`Training.points`): returns by place, and of dreams over the game."""
    judged = [point for point in points if point.get("scores")]
    places = sorted({place for point in judged for place in point["scores"]})
    dreams = [place for place in places if place != "real" and "real" in places]
    titles = ["decisions", *(f"return, {place}" for place in places), *(f"{place} over real" for place in dreams)]
    lines = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    for point in judged:
        returns = {place: score["mean_return"] for place, score in point["scores"].items()}
        cells = [f"{point['steps']:,}", *(f"{returns[place]:.0f}" for place in places)]
        cells += [f"{returns[place] / returns['real']:.2f}" if returns["real"] else "-" for place in dreams]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
