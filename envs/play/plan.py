"""The map of what a world remembers, from above: walls, the way, the views that are kept, those recalled now."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pygame

from worldsim.envs.play.theme import ACCENT, DIM, GOOD, LINE, TEXT, Theme
from worldsim.memory.base import FromAbove

SIGHT = 12  # length of the line that shows where a view looks, in units of the theme


def draw_plan(target: pygame.Surface, theme: Theme, box: pygame.Rect, plan: FromAbove) -> None:
    """Draw the plan into a box, the whole of it, as large as it fits, +y up."""
    target.fill((0, 0, 0), box)
    pygame.draw.rect(target, LINE, box, width=1)
    place = _fit(plan, box.inflate(-2 * theme.px(8), -2 * theme.px(8)))
    clip, dot = target.get_clip(), max(1, theme.px(1))
    target.set_clip(box)
    for x, y in place(plan.points):
        target.fill(DIM, (x, y, dot, dot))
    way = place(np.concatenate([plan.views[:, :2], plan.here[None, :2]]))
    if len(way) > 1:
        pygame.draw.lines(target, LINE, False, way)
    for point, view, recalled in zip(way, plan.views, plan.recalled, strict=False):
        _draw_view(target, theme, point, float(view[2]), ACCENT if recalled else TEXT, 3 if recalled else 1)
    _draw_view(target, theme, way[-1], float(plan.here[2]), GOOD, 4)
    target.set_clip(clip)


def _draw_view(
    target: pygame.Surface, theme: Theme, at: tuple[int, int], yaw: float, colour: tuple[int, int, int], size: int
) -> None:
    """A dot, and a line to where it looks."""
    reach = theme.px(SIGHT)
    end = (at[0] + round(reach * np.cos(yaw)), at[1] - round(reach * np.sin(yaw)))
    if size > 1:
        pygame.draw.line(target, colour, at, end)
    pygame.draw.circle(target, colour, at, theme.px(size))


def _fit(plan: FromAbove, box: pygame.Rect) -> Callable[[np.ndarray], list[tuple[int, int]]]:
    """From places (N, 2) to pixels in the box."""
    every = np.concatenate([plan.points, plan.views[:, :2], plan.here[None, :2]])
    low, high = every.min(0), every.max(0)
    scale = min(box.width, box.height) / max(float((high - low).max()), 1e-6)
    middle = (low + high) / 2

    def place(points: np.ndarray) -> list[tuple[int, int]]:
        around = (points - middle) * scale
        return [(round(box.centerx + float(x)), round(box.centery - float(y))) for x, y in around]

    return place
