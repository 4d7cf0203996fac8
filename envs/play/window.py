"""The window: pygame's events and drawing. It never waits for the model, it shows what is due."""

from __future__ import annotations

import math
import os
import threading
import time

import pygame

from worldsim.envs.play import theme
from worldsim.envs.play.feed import QueuedFrame, View
from worldsim.envs.play.game import Game
from worldsim.envs.play.keys import ActionKeys, bind_commands
from worldsim.envs.play.layout import window_size
from worldsim.envs.play.pace import Rate, Recent
from worldsim.envs.play.painter import Painter
from worldsim.envs.play.panel import Measured
from worldsim.envs.play.runner import Runner
from worldsim.envs.play.session import Session
from worldsim.envs.play.status import Settings
from worldsim.envs.play.table import table_rows
from worldsim.errors import MissingDependency
from worldsim.io.text import printable
from worldsim.spec import WorldProtocol

MIN_DRAW_GAP = 1 / 120  # seconds between two frames on the screen
PANEL_GAP = 0.25  # seconds between two updates of the numbers
NO_DISPLAY = (
    "there is no display to open a window on; set DISPLAY, run it as `xvfb-run -a worldsim play …`, "
    "or use `worldsim rollout WORLD --out clip.mp4`, which needs none"
)


def open_display() -> None:
    """Get ready to open a window; raises MissingDependency if there is no display."""
    chosen = "SDL_VIDEODRIVER" in os.environ
    try:
        pygame.display.init()
    except pygame.error as error:
        raise MissingDependency(NO_DISPLAY) from error
    if pygame.display.get_driver() in ("offscreen", "dummy") and not chosen:
        pygame.display.quit()
        raise MissingDependency(NO_DISPLAY)  # SDL fell back to drawing where nobody sees it
    if pygame.display.get_driver() == "x11":
        # By default SDL sends the whole window through OpenGL at every change, which costs 5 to 15 ms CPU
        # where there is no GPU; plain X11 sends what changed. Other systems have no other way.
        os.environ.setdefault("SDL_FRAMEBUFFER_ACCELERATION", "0")


class Window:
    """A window on a world; `run` returns when it was closed. Make it in the main thread."""

    def __init__(self, world: WorldProtocol, settings: Settings, *, scale: int | None = None) -> None:
        """Open the window; `scale` is how many screen pixels high a pixel of the world is at first.

        Raises MissingDependency if there is no display.
        """
        self.spec = world.spec
        self.actions = ActionKeys(self.spec.actions)
        bound = bind_commands(self.actions)
        self._command_of = {key: name for name, keys in bound.items() for key in keys}
        self._wake_type, self._wake_sent = 0, threading.Event()
        game = Game(world, speculate=settings.speculate)
        self.session = Session(game, self.actions, settings, self._wake)
        self.runner = Runner(self.session, self._wake)
        self.shown = 0  # frames that reached the screen
        self.view: View = ()  # the last of them
        self.first_shown_at: float | None = None
        self.closed = False
        self.painter = Painter(self.spec, *table_rows(self.actions, bound), self.actions.names)
        self._rate, self.latency = Rate(), Recent()
        self._measured, self._measured_at = Measured(), -math.inf  # of the numbers in the panel
        self._drawn_at, self._phase = -math.inf, ""
        self._fullscreen = False
        self._open(settings, scale)

    def run(self, max_seconds: float | None = None) -> None:
        """Play until the window is closed, or for `max_seconds`; raises what the model raises."""
        try:
            self.runner.start()
            while not self.closed:
                self.tick()
                start = self.first_shown_at
                if max_seconds is not None and start is not None and time.perf_counter() - start > max_seconds:
                    self.closed = True
        finally:
            self.close()
        if self.runner.error is not None:
            raise self.runner.error

    def close(self) -> None:
        """End the model thread, then pygame; may be called twice."""
        self.closed = True
        self.runner.stop()
        theme.forget_fonts()
        pygame.quit()

    def tick(self) -> None:
        """Wait for the next event or frame, handle it, draw what changed."""
        wait = self._next_drawing() - time.perf_counter()
        event = pygame.event.wait(max(1, math.ceil(wait * 1000))) if wait > 0 else pygame.event.poll()
        while event.type != pygame.NOEVENT:
            self._handle(event)
            event = pygame.event.poll()
        if self.runner.error is not None:
            self.closed = True
        if not self.closed:
            self._draw()

    def _handle(self, event: pygame.event.Event) -> None:
        if event.type == self._wake_type:
            self._wake_sent.clear()
        elif event.type == pygame.QUIT:
            self.closed = True
        elif event.type == pygame.KEYDOWN:
            self._press(pygame.key.name(event.key))
        elif event.type == pygame.KEYUP:
            self.runner.release(pygame.key.name(event.key))
        elif event.type in (pygame.VIDEORESIZE, pygame.WINDOWEXPOSED):
            self.painter.lay_out()

    def _press(self, key: str) -> None:
        if key in self.actions.names:
            self.runner.press(key, time.perf_counter())
            return
        command = self._command_of.get(key)
        if command == "quit" and self.painter.table_open:
            command = "keys"
        match command:
            case None:
                pass
            case "quit":
                self.closed = True
            case "keys":
                self.painter.table_open = not self.painter.table_open
                self.painter.lay_out()
            case "panel":
                self.painter.panel_open = not self.painter.panel_open
                self.painter.lay_out()
            case "fullscreen":
                self._toggle_fullscreen()
            case _:
                self.runner.send(command)

    def _wake(self) -> None:
        """Called from the model thread: leave the wait for events."""
        if not self._wake_sent.is_set():
            self._wake_sent.set()
            pygame.event.post(pygame.event.Event(self._wake_type))

    def _open(self, settings: Settings, scale: int | None) -> None:
        open_display()
        pygame.font.init()
        self._wake_type = pygame.event.custom_type()
        pygame.display.set_caption(f"worldsim - {printable(self.spec.name)}")
        self._size = window_size(pygame.display.get_desktop_sizes()[0], self.spec, 1 + settings.real, scale)
        pygame.display.set_mode(self._size, pygame.RESIZABLE)
        self.painter.lay_out()

    def _toggle_fullscreen(self) -> None:
        self._fullscreen = not self._fullscreen
        if self._fullscreen:
            self._size = pygame.display.get_window_size()
            pygame.display.set_mode(pygame.display.get_desktop_sizes()[0], pygame.FULLSCREEN)
        else:
            pygame.display.set_mode(self._size, pygame.RESIZABLE)
        self.painter.lay_out()

    def _next_drawing(self) -> float:
        """When there will be something to draw, unless an event comes first."""
        frame = max(self.runner.feed.next_due(), self._drawn_at + MIN_DRAW_GAP)
        return min(frame, self._measured_at + PANEL_GAP)

    def _draw(self) -> None:
        now = time.perf_counter()
        shot = self.runner.feed.take(now) if now >= self._drawn_at + MIN_DRAW_GAP else None
        status = self.runner.status
        if status.phase != self._phase:
            self._phase = status.phase
            self._rate.clear()
            self._measured_at = -math.inf
        if now - self._measured_at >= PANEL_GAP:
            self._measured_at = now
            median, late = self.latency.milliseconds(50), self.latency.milliseconds(95)
            self._measured = Measured(self._rate.per_second(now), median, late)
        lit = frozenset(self.runner.held.peek()) | frozenset(status.keys)
        self.painter.paint(shot.view if shot else None, status, self._measured, lit, now)
        if shot is not None:
            self._drawn_at = now
            self._count(shot)

    def _count(self, shot: QueuedFrame) -> None:
        """A frame has just reached the screen."""
        now = time.perf_counter()
        self.shown, self.view = self.shown + 1, shot.view
        if self.first_shown_at is None:
            self.first_shown_at = now
        self._rate.tick(now)
        if shot.pressed_at is not None:
            self.latency.add(now - shot.pressed_at)
