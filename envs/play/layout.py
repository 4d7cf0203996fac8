"""Where things go in a window of any size: frames, the bar under them, the side panel."""

from __future__ import annotations

from dataclasses import dataclass

import pygame

from worldsim.envs.play.recorder import pixel_size
from worldsim.spec import WorldSpec

MARGIN = 16  # around the frames; lengths here are in units of the theme
FRAME_GAP = 16  # between the real game and the dream
CAPTION = 26  # above each of two frames
BAR = 48  # under the frames: keys and messages
PANEL_WIDTH = 252  # of a panel at the right
PANEL_HEIGHT = 200  # of a panel at the bottom
MIN_WINDOW = (640, 420)


@dataclass(frozen=True)
class Layout:
    """The boxes of one window size."""

    unit: float  # pixels in a unit of the theme
    frames: tuple[pygame.Rect, ...]  # whole pixels of the world, each the same number of screen pixels
    bar: pygame.Rect
    panel: pygame.Rect | None
    panel_across: bool  # the panel lies at the bottom: its sections stand side by side


def unit_for(size: tuple[int, int]) -> float:
    """The unit of the theme in a window of this size: 1, less in a tiny window, more in a very large one."""
    if size[0] < MIN_WINDOW[0] or size[1] < MIN_WINDOW[1]:
        return max(0.5, min(size[0] / MIN_WINDOW[0], size[1] / MIN_WINDOW[1]))
    return min(3.0, max(1.0, round(min(size[0] / 1200, size[1] / 720) * 4) / 4))  # quarters keep type crisp


def arrange(size: tuple[int, int], spec: WorldSpec, frames: int, *, panel: bool) -> Layout:
    """Lay out a window for one frame or two, with the panel on the side that leaves them more room."""
    unit = unit_for(size)
    window = pygame.Rect(0, 0, *size)
    if not panel:
        return _place(unit, window, None, False, spec, frames)
    right, bottom = window.copy(), window.copy()
    right.width = min(round(PANEL_WIDTH * unit), window.width)
    right.right = window.right
    bottom.height = min(round(PANEL_HEIGHT * unit), window.height)
    bottom.bottom = window.bottom
    beside = pygame.Rect(0, 0, window.width - right.width, window.height)
    above = pygame.Rect(0, 0, window.width, window.height - bottom.height)
    options = [
        _place(unit, above, bottom, True, spec, frames),
        _place(unit, beside, right, False, spec, frames),
    ]
    return max(options, key=lambda option: option.frames[0].height)


def _place(
    unit: float, area: pygame.Rect, panel: pygame.Rect | None, across: bool, spec: WorldSpec, frames: int
) -> Layout:
    """Center the frames in an area at the largest whole scale that fits, at least 1."""
    margin, gap, bar = (round(length * unit) for length in (MARGIN, FRAME_GAP, BAR))
    caption = round(CAPTION * unit) if frames > 1 else 0
    room_x = area.width - 2 * margin - gap * (frames - 1)
    room_y = area.height - margin - caption - bar
    scale = 1
    while True:
        across_pixel, down_pixel = pixel_size(spec, scale + 1)
        if frames * across_pixel * spec.width > room_x or down_pixel * spec.height > room_y:
            break
        scale += 1
    across_pixel, down_pixel = pixel_size(spec, scale)
    width, height = across_pixel * spec.width, down_pixel * spec.height
    total = frames * width + gap * (frames - 1)
    left = area.centerx - total // 2
    top = area.top + margin + caption + max(0, room_y - height) // 2
    boxes = tuple(pygame.Rect(left + i * (width + gap), top, width, height) for i in range(frames))
    # The bar is as wide as the frames, and no narrower than a message needs.
    under = pygame.Rect(0, top + height, min(max(total, round(480 * unit)), area.width - 2 * margin), bar)
    under.centerx = area.centerx
    return Layout(unit, boxes, under, panel, across)


def window_size(desktop: tuple[int, int], spec: WorldSpec, frames: int, scale: int | None) -> tuple[int, int]:
    """A first window: `scale` screen pixels down to one of the world, or what suits the desktop."""
    across, down = pixel_size(spec, 24)
    wide = frames * spec.width * across > 1.6 * spec.height * down
    extra_x = 2 * MARGIN + FRAME_GAP * (frames - 1) + (0 if wide else PANEL_WIDTH)
    extra_y = MARGIN + BAR + (CAPTION if frames > 1 else 0) + (PANEL_HEIGHT if wide else 0)

    def size(scale: int) -> tuple[int, int]:
        across, down = pixel_size(spec, scale)
        width, height = frames * spec.width * across + extra_x, spec.height * down + extra_y
        return max(MIN_WINDOW[0], width), max(MIN_WINDOW[1], height)

    if scale is not None:
        return size(scale)
    limit_x, limit_y = min(1400, desktop[0] * 9 // 10), min(800, desktop[1] * 8 // 10)
    best = 1
    while size(best + 1)[0] <= limit_x and size(best + 1)[1] <= limit_y:
        best += 1
    return size(best)
