"""The plot of a speculation bench; matplotlib is imported only when it is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from worldsim.media import save_figure

COLOURS = {"hit": "tab:green", "late": "tab:olive", "miss": "tab:red", "off": "tab:grey"}


def save_speculation_plot(path: Path, report: dict[str, Any]) -> None:
    """Write a .png with hits, latencies, steps a second, discarded work by depth, and the stages of a step."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 9), layout="constrained")
    panels = figure.subplots(2, 3).ravel()
    runs = report["runs"]
    names = [f"{run['stream']}\n{run['think_ms']:g} ms, {run['depth']} deep" for run in runs]
    _hits(panels[0], runs, names)
    _latencies(panels[1], runs, names)
    _rates(panels[2], runs, names)
    _discarded(panels[3], runs, names)
    _by_depth(panels[4], runs)
    _stages(panels[5], report["stages_ms"])
    for axes in panels[:4]:
        axes.set_yticks(range(len(names)), labels=names, fontsize=7)
        axes.invert_yaxis()
    save_figure(path, figure)


def _hits(axes: Any, runs: list[dict[str, Any]], names: list[str]) -> None:
    in_time = [run["in_time_rate"] for run in runs]
    axes.barh(range(len(names)), in_time, color=COLOURS["hit"], label="was there")
    late = [run["hit_rate"] - run["in_time_rate"] for run in runs]
    axes.barh(range(len(names)), late, left=in_time, color=COLOURS["late"], label="was under way")
    axes.set(title="steps guessed (caller: thinking time, greatest depth)", xlabel="share of steps", xlim=(0, 1))
    axes.legend()


def _latencies(axes: Any, runs: list[dict[str, Any]], names: list[str]) -> None:
    height = 0.8 / len(COLOURS)
    for offset, (kind, colour) in enumerate(COLOURS.items()):
        for row, run in enumerate(runs):
            found = run["latency_ms"][kind]
            if found["p50"] is not None:
                y = row + (offset - 1.5) * height
                axes.barh(y, found["p50"], height, color=colour, label=kind if row == 0 else None)
                axes.plot([found["p50"], found["p95"]], [y, y], color="black", linewidth=1)
    axes.set(title="latency of a step: median, and line to p95", xlabel="ms")
    axes.legend(handles=[_patch(kind, colour) for kind, colour in COLOURS.items()])


def _patch(label: str, colour: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(color=colour, label=label)


def _rates(axes: Any, runs: list[dict[str, Any]], names: list[str]) -> None:
    axes.barh(range(len(names)), [run["on_over_off"] for run in runs])
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set(title="steps a second, with over without", xlabel="ratio")


def _discarded(axes: Any, runs: list[dict[str, Any]], names: list[str]) -> None:
    useful = [run["guesses"]["computed_s"] - run["guesses"]["discarded_s"] for run in runs]
    steps = np.array([run["guesses"]["steps"] for run in runs])
    useful_ms, lost_ms = (1000 * np.array(v) / steps for v in (useful, [r["guesses"]["discarded_s"] for r in runs]))
    axes.barh(range(len(names)), useful_ms, color=COLOURS["hit"], label="came true")
    axes.barh(range(len(names)), lost_ms, left=useful_ms, color=COLOURS["miss"], label="discarded")
    axes.set(title="time spent on guesses", xlabel="ms a step")
    axes.legend()


def _by_depth(axes: Any, runs: list[dict[str, Any]]) -> None:
    for run in runs:
        depths = run["guesses"]["by_depth"]
        if depths:
            label = f"{run['stream']}, {run['think_ms']:g} ms, {run['depth']} deep"
            axes.plot([int(d) for d in depths], [row["discarded_share"] for row in depths.values()], "o-", label=label)
    axes.set(title="guesses that did not come true", xlabel="steps ahead", ylabel="share", ylim=(0, 1))
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7)


def _stages(axes: Any, stages: dict[str, float]) -> None:
    axes.bar(list(stages), list(stages.values()))
    axes.set(title="stages of a step", ylabel="ms")
