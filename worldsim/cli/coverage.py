"""How much of a place a recording has been to: a share of cells, and an image of the visits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from worldsim.data.episodes import Episodes
from worldsim.io.media import save_figure

if TYPE_CHECKING:
    from worldsim.envs.sources import Arena


def count_visits(episodes: Episodes, arena: Arena) -> np.ndarray:
    """Rows spent in each cell of the arena: an array with one axis for each of its variables."""
    columns = [episodes.meta.variable_names.index(name) for name in arena.bounds]
    places = episodes.read("variables", 0, episodes.num_steps)[:, columns]  # (T, axes)
    edges = [np.arange(low, high + arena.cell / 2, arena.cell) for low, high in arena.bounds.values()]
    return np.histogramdd(places, bins=edges)[0]


def report_coverage(episodes: Episodes, arena: Arena) -> float:
    """Print and return the share of the arena's cells visited; draw `coverage.png` into the store."""
    visits = count_visits(episodes, arena)
    share = int((visits > 0).sum()) / arena.floor_cells
    print(
        f"coverage: {int((visits > 0).sum())} of {arena.floor_cells} cells visited ({share:.0%}); "
        f"a cell is {arena.cell:.0f} map units along {' and '.join(arena.bounds)}"
    )
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        print('no coverage.png: matplotlib is not installed; get it with `pip install "worldsim[train]"`')
        return share
    _draw(visits, arena, episodes, share, episodes.path / "coverage.png")
    return share


def _draw(visits: np.ndarray, arena: Arena, episodes: Episodes, share: float, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.2 if visits.ndim == 1 else 6), layout="constrained")
    axes = figure.subplots()
    names, bounds = list(arena.bounds), [edge for pair in arena.bounds.values() for edge in pair]
    axes.set_xlabel(f"{names[0]} (map units)")
    if visits.ndim == 1:
        axes.stairs(visits, np.linspace(bounds[0], bounds[1], len(visits) + 1), fill=True)
        axes.set_ylabel("rows")
    else:
        shown = np.log10(np.where(visits > 0, visits, np.nan)).T
        image = axes.imshow(shown, origin="lower", extent=(bounds[0], bounds[1], bounds[2], bounds[3]), aspect="equal")
        axes.set_ylabel(f"{names[1]} (map units)")
        figure.colorbar(image, label="rows, log10")
    meta = episodes.meta
    axes.set_title(
        f"{meta.source}, policy {meta.policy}, seed {meta.seed}: {len(episodes)} episodes, "
        f"{episodes.num_steps} rows\n{share:.0%} of the cells visited"
    )
    save_figure(path, figure, dpi=110)
