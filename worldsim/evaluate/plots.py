"""Plots of a study; matplotlib is imported only when one is drawn."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from worldsim.errors import MissingDependency
from worldsim.evaluate.study import Study
from worldsim.io.media import save_figure

PANELS = 5  # of what is measured of every world; those of its probes follow
ACROSS = 3  # panels in a line


def require_matplotlib() -> None:
    """Raise MissingDependency if plots cannot be drawn; asked before a long measurement, not after it."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingDependency(
            'plots need matplotlib, which is not installed; pip install "worldsim[eval]", or leave out --out'
        ) from error


def save_plots(study: Study, out: Path) -> None:
    """Write `plots.png`: one panel a measurement."""
    from matplotlib.figure import Figure

    of_probes = [plot for result in study.probes.values() for plot in result.plots]
    lines = math.ceil((PANELS + len(of_probes)) / ACROSS)
    figure = Figure(figsize=(5 * ACROSS, 4.5 * lines), layout="constrained")
    panels = figure.subplots(lines, ACROSS).ravel()
    _horizons(panels[0], study)
    _drift(panels[1], study.report["drift"], ("sharpness", "laplacian_variance", "change"), "over real")
    _drift(panels[2], study.report["drift"], ("feature_distance",), "feature distance to real frames")
    _survival(panels[3], study)
    _reliability(panels[4], study.report["endings"]["teacher_forced"])
    for axes, plot in zip(panels[PANELS:], of_probes, strict=False):
        plot(axes)
    for axes in panels[PANELS + len(of_probes) :]:
        axes.set_visible(False)
    save_figure(out / "plots.png", figure)


def _horizons(axes: Any, study: Study) -> None:
    for name, curve in study.horizons.curves.items():
        axes.plot(range(1, len(curve) + 1), curve, label=name)
    table = study.report["horizons"]
    for name, label in (("shuffled_psnr", "shuffled actions"), ("tokenizer_psnr", "tokenizer")):
        axes.plot([int(h) for h in table], [row[name] for row in table.values()], "o--", label=label)
    axes.set(title="dream against real", xlabel="steps ahead", ylabel="PSNR (dB)")
    axes.legend()


def _drift(axes: Any, drift: dict[str, Any], names: tuple[str, ...], label: str) -> None:
    """Figures by window; several are shown as shares of the real ones."""
    steps = [w["first_step"] + drift["window"] / 2 for w in drift["windows"]]
    for name in names:
        scale = drift["real"][name] if len(names) > 1 else 1.0
        axes.plot(steps, np.array([w[name] for w in drift["windows"]]) / (scale or 1.0), "o-", label=name)
    axes.axhline(1.0 if len(names) > 1 else drift["real"][names[0]], color="grey", linestyle=":", label="real")
    axes.set(title="one dream without a reset", xlabel="step", ylabel=label)
    axes.set_ylim(bottom=0)
    axes.legend()


def _survival(axes: Any, study: Study) -> None:
    for name, lives in (("real", study.endings.real), ("dream", study.endings.dreamed)):
        axes.step(*lives.survival(), where="post", label=name)
    table = study.report["endings"]
    axes.set(
        title=f"survival, policy {table['policy']} ({table['actions']} actions)",
        xlabel="step",
        ylabel="share alive",
    )
    axes.legend()


def _reliability(axes: Any, head: dict[str, Any]) -> None:
    rows = head["reliability"]
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":")
    axes.plot([r["said"] for r in rows], [r["seen"] for r in rows], "o-")
    for r in rows:
        axes.annotate(str(r["steps"]), (r["said"], r["seen"]), fontsize=7)
    axes.set(title="ending head on real frames", xlabel="probability said", ylabel="share that ended")
