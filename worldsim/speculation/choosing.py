"""Which guess is computed next."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from worldsim.speculation.economy import Economy, Trust
from worldsim.speculation.guesses import Guess, Job
from worldsim.speculation.settings import Speculation

Path = tuple[np.ndarray, ...]


def next_job(root: Guess, settings: Speculation, economy: Economy, trust: Trust, elapsed: float) -> Job | None:
    """The most promising thing to compute `elapsed` seconds after the caller was answered; None if nothing is.

    A node's candidates are asked for before anything else is computed: that is cheap, and tells where to go on.
    """
    outlook = economy.outlook(elapsed)

    def worth(chance: float, depth: int, missing: float) -> float:
        return economy.worth(chance, depth, missing, outlook) if settings.adapt else chance

    if sum(1 for _ in root.below()) >= settings.states:
        return None
    there = sum(chance for _, path, chance in _nodes(root, trust) if len(path) == 1)
    best, job = 0.0, None
    for node, path, chance in _nodes(root, trust):
        depth = len(path) + 1
        if depth > settings.depth or chance < settings.floor:
            continue
        if node.candidates is None:
            if worth(chance, depth, 0.0) > 0:
                return Job(node, path)
            continue
        for rank, candidate in enumerate(node.candidates[: settings.breadth]):
            likely = chance * trust.chance(rank, candidate.probability)
            if candidate.key in node.children or likely < settings.floor:
                continue
            value = worth(likely, depth, max(0.0, 1 - there - (likely if depth == 1 else 0.0)))
            if value > best:
                best, job = value, Job(node, path, candidate)
    return job


def _nodes(root: Guess, trust: Trust) -> Iterator[tuple[Guess, Path, float]]:
    """The root and all guesses below it, parents first, each with its path and how likely it is to come true."""
    waiting: list[tuple[Guess, Path, float]] = [(root, (), 1.0)]
    while waiting:
        node, path, chance = waiting.pop(0)
        yield node, path, chance
        for rank, candidate in enumerate(node.candidates or ()):
            child = node.children.get(candidate.key)
            if child is not None:
                follows = chance * trust.chance(min(rank, trust.ranks - 1), candidate.probability)
                waiting.append((child, (*path, candidate.actions), follows))
