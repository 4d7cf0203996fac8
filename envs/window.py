"""The window of render_mode="human": shows frames enlarged, at the game's own speed."""

from __future__ import annotations

import logging
import os
from functools import cache
from typing import Any

import numpy as np

from worldsim.errors import InvalidInput, MissingDependency
from worldsim.spec import WorldSpec

log = logging.getLogger("worldsim")

TARGET_HEIGHT = 512  # frames are enlarged by the whole number that comes closest below


class Window:
    """One pygame window: it opens at the first frame, and again after `close`.

    Without a display SDL draws off screen, which the log says once. Raises MissingDependency without pygame,
    InvalidInput where the display that is set cannot be opened.
    """

    def __init__(self, spec: WorldSpec) -> None:
        try:
            import pygame
        except ImportError as error:
            raise MissingDependency('render_mode="human" needs pygame; run pip install "worldsim[play]"') from error
        self._pygame = pygame
        self._spec = spec
        self._rate = spec.steps_per_second * spec.frames_per_step
        scale = max(1, TARGET_HEIGHT // spec.height)
        self._size = (round(spec.width * spec.pixel_aspect * scale), spec.height * scale)
        self._screen: Any = None  # a pygame.Surface while the window is open
        self._clock = pygame.time.Clock()
        self._require_display()

    def __reduce__(self) -> tuple[Any, ...]:
        """A window belongs to its process; a copy opens one of its own at its first frame."""
        return type(self), (self._spec,)

    def show(self, frame: np.ndarray) -> None:
        """Show (H, W, 3) uint8 and wait until its time is over."""
        if self._screen is None:
            self._require_display()
            self._screen = self._pygame.display.set_mode(self._size)
            self._pygame.display.set_caption(f"worldsim {self._spec.name}")
        surface = self._pygame.surfarray.make_surface(frame.swapaxes(0, 1))  # pygame wants (W, H, 3)
        self._screen.blit(self._pygame.transform.scale(surface, self._size), (0, 0))
        self._pygame.event.pump()
        self._pygame.display.flip()
        self._clock.tick(self._rate)

    def close(self) -> None:
        """Close the window, if it is open."""
        if self._screen is not None:
            self._screen = None
            self._pygame.display.quit()

    def _require_display(self) -> None:
        try:
            self._pygame.display.init()
        except self._pygame.error as error:
            fix = 'set DISPLAY or SDL_VIDEODRIVER to one that works, or use "rgb_array"'
            raise InvalidInput(f'no display for render_mode="human" ({error}); {fix}') from error
        asked = os.environ.get("SDL_VIDEODRIVER") or os.environ.get("SDL_VIDEO_DRIVER")
        if self._pygame.display.get_driver() in ("offscreen", "dummy") and not asked:
            _say_that_nobody_sees_it()


@cache
def _say_that_nobody_sees_it() -> None:
    """Once in a process. Not a refusal: checkers of environments open windows wherever they run."""
    log.warning(
        'no display for render_mode="human": the window is drawn off screen, where nobody sees it; run where DISPLAY '
        'is set (a desktop, or ssh -X), or use render_mode="rgb_array"'
    )
