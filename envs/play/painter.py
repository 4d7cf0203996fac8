"""Draws the window: frames, and around them bar, panel and key table; only what has changed."""

from __future__ import annotations

import pygame

from worldsim.envs.play.feed import View
from worldsim.envs.play.layout import Layout, arrange
from worldsim.envs.play.panel import Measured, bar_message, draw_bar, draw_panel, sections
from worldsim.envs.play.status import Status
from worldsim.envs.play.table import Row, draw_table
from worldsim.envs.play.theme import ACCENT, BODY, DIM, GROUND, LINE, SMALL, TEXT, Theme
from worldsim.spec import WorldSpec


class Painter:
    """Keeps what is on the screen and paints over it; needs an open pygame display."""

    def __init__(self, spec: WorldSpec, world_rows: list[Row], window_rows: list[Row], keys: tuple[str, ...]) -> None:
        """`world_rows` and `window_rows` fill the key table; `keys` are the caps in the bar."""
        self.panel_open = True
        self.table_open = False
        self._spec, self.rows, self._keys = spec, (world_rows, window_rows), keys
        self._view: View | None = None
        self._surfaces: list[pygame.Surface] = []
        self.layout: Layout | None = None
        self._card: pygame.Surface | None = None
        self._drawn: dict[str, object] = {}  # what each part showed when it was last drawn

    def lay_out(self) -> None:
        """Arrange everything anew for the window's present size, and draw all of it at the next `paint`."""
        self.layout = None

    def paint(self, view: View | None, status: Status, measured: Measured, lit: frozenset[str], now: float) -> None:
        """Bring the screen up to date; `view` is a new one or None, `lit` the keys that are down."""
        screen = pygame.display.get_surface()
        assert screen is not None
        if view is not None and (self._view is None or len(view) != len(self._view)):
            self.layout = None
        self._view = view or self._view
        everything = self.layout is None
        if self.layout is None:
            self.layout = self._arrange(screen)
        changed: list[pygame.Rect] = []
        if view is not None or everything:
            changed += self._paint_frames(screen, self.layout, status)
        changed += self._paint_words(screen, self.layout, status, measured, lit, now)
        if self._card is not None and changed:
            changed.append(screen.blit(self._card, self._card.get_rect(center=screen.get_rect().center)))
        if everything:
            pygame.display.flip()
        elif changed:
            pygame.display.update(changed)

    def _arrange(self, screen: pygame.Surface) -> Layout:
        layout = arrange(screen.get_size(), self._spec, len(self._view or (0,)), panel=self.panel_open)
        self._card = draw_table(screen.get_size(), layout.unit, *self.rows) if self.table_open else None
        self._drawn.clear()
        screen.fill(GROUND)
        return layout

    def _paint_frames(self, screen: pygame.Surface, layout: Layout, status: Status) -> list[pygame.Rect]:
        if self._view is None:
            box = layout.frames[0]
            pygame.draw.rect(screen, LINE, box, width=1)
            return [Theme(layout.unit).text(screen, "waking the world", box.center, BODY, DIM, "center")]
        for frame, box in zip(self._view, layout.frames, strict=True):
            height, width = frame.shape[:2]
            small = pygame.image.frombuffer(frame.tobytes(), (width, height), "RGB").convert()
            screen.blit(pygame.transform.scale(small, box.size), box)
        return list(layout.frames)

    def _paint_words(
        self,
        screen: pygame.Surface,
        layout: Layout,
        status: Status,
        measured: Measured,
        lit: frozenset[str],
        now: float,
    ) -> list[pygame.Rect]:
        """The captions, the bar and the panel, where they would show something else than they do."""
        changed: list[pygame.Rect] = []
        if self._differs("captions", status.real_ended) and len(layout.frames) > 1:
            changed += self._paint_captions(screen, layout, status)
        message = bar_message(self._spec, status, now)
        if self._differs("bar", (message, status.phase, status.recording, status.speed, lit)):
            draw_bar(screen, layout, status, message, self._keys, lit)
            changed.append(layout.bar)
        if layout.panel is not None and self._differs(
            "panel",
            (measured, status.phase, status.seed, status.speed, status.volume, status.memory, id(status.plan)),
        ):
            draw_panel(screen, layout, self._spec, sections(self._spec, status, measured), status.plan)
            changed.append(layout.panel)
        return changed

    def _paint_captions(self, screen: pygame.Surface, layout: Layout, status: Status) -> list[pygame.Rect]:
        theme = Theme(layout.unit)
        boxes = []
        labels = ("REAL — over" if status.real_ended else "REAL", "DREAM")
        for label, frame in zip(labels, layout.frames, strict=True):
            box = pygame.Rect(frame.left, frame.top - theme.px(24), frame.width, theme.px(24))
            screen.fill(GROUND, box)
            theme.text(screen, label, (box.left, box.centery), SMALL, ACCENT if label == "DREAM" else TEXT)
            boxes.append(box)
        return boxes

    def _differs(self, part: str, shows: object) -> bool:
        if part in self._drawn and self._drawn[part] == shows:
            return False
        self._drawn[part] = shows
        return True
