"""Colours, type and a few shapes: the look of everything that is not the game's frame."""

from __future__ import annotations

import functools
import warnings

import pygame

Colour = tuple[int, int, int]

GROUND: Colour = (13, 15, 19)  # behind the frame
SURFACE: Colour = (21, 24, 30)  # panel and cards
RAISED: Colour = (34, 38, 46)  # key caps, empty meters
LINE: Colour = (48, 53, 63)
TEXT: Colour = (228, 232, 238)
DIM: Colour = (134, 143, 157)
ACCENT: Colour = (244, 165, 74)  # what the player does, and what needs a look
GOOD: Colour = (98, 196, 155)
BAD: Colour = (236, 92, 84)

SMALL, BODY, TITLE, HERO = 13, 15, 20, 40  # type sizes at unit 1

# The first that is installed; pygame's own font, which is always there, is bold.
FACES = (
    "segoeui",
    "sfprotext",
    "helveticaneue",
    "inter",
    "notosans",
    "opensans",
    "ubuntu",
    "dejavusans",
    "arial",
)
KEY_NAMES = {
    "return": "Enter",
    "escape": "Esc",
    "break": "Pause",
}
ARROWS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}


@functools.cache
def _face() -> str | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pygame warns where it cannot list fonts; its own then serves
        return pygame.font.match_font(list(FACES))


@functools.lru_cache(maxsize=16)
def _font(size: int) -> pygame.font.Font:
    return pygame.font.Font(_face(), size)


@functools.lru_cache(maxsize=512)
def _rendered(text: str, size: int, colour: Colour) -> pygame.Surface:
    return _font(size).render(text, True, colour)


def forget_fonts() -> None:
    """Drop what was cached; fonts do not outlive pygame."""
    _font.cache_clear()
    _rendered.cache_clear()


class Theme:
    """Draws in a unit that follows the size of the window."""

    def __init__(self, unit: float) -> None:
        self.unit = unit

    def px(self, length: float) -> int:
        """A length in pixels."""
        return round(length * self.unit)

    def width(self, text: str, size: int) -> int:
        """How wide a text is, in pixels."""
        return _font(self.px(size)).size(text)[0]

    def text(
        self,
        target: pygame.Surface,
        text: str,
        at: tuple[int, int],
        size: int = BODY,
        colour: Colour = TEXT,
        anchor: str = "midleft",
    ) -> pygame.Rect:
        """Write one line with `anchor` (a corner or side, as pygame.Rect names them) at a point."""
        image = _rendered(text, self.px(size), colour)
        box = image.get_rect(**{anchor: at})
        target.blit(image, box)
        return box

    def wrap(self, text: str, size: int, width: int) -> list[str]:
        """Break a text into lines of at most `width` pixels, between words."""
        lines: list[str] = []
        for word in text.split():
            longer = f"{lines[-1]} {word}" if lines else word
            if lines and self.width(longer, size) <= width:
                lines[-1] = longer
            else:
                lines.append(word)
        return lines

    def cap_width(self, key: str) -> int:
        """How wide a key cap is."""
        label = key_label(key)
        return self.px(26) if key in ARROWS else max(self.px(26), self.width(label, SMALL) + self.px(14))

    def cap(self, target: pygame.Surface, key: str, at: tuple[int, int], *, lit: bool = False) -> pygame.Rect:
        """Draw a key cap with the middle of its left side at a point; `lit` while the key is down."""
        box = pygame.Rect(0, 0, self.cap_width(key), self.px(24))
        box.midleft = at
        radius = self.px(5)
        pygame.draw.rect(target, ACCENT if lit else RAISED, box, border_radius=radius)
        if not lit:
            pygame.draw.rect(target, LINE, box, width=1, border_radius=radius)
        ink = GROUND if lit else TEXT
        if key in ARROWS:
            self._arrow(target, box.center, ARROWS[key], ink)
        else:
            self.text(target, key_label(key), box.center, SMALL, ink, "center")
        return box

    def _arrow(self, target: pygame.Surface, at: tuple[int, int], to: tuple[int, int], ink: Colour) -> None:
        size = self.px(5)
        (x, y), (dx, dy) = at, to
        tip = (x + dx * size, y + dy * size)
        wings = [(x - dx * size + s * dy * size, y - dy * size + s * dx * size) for s in (-1, 1)]
        pygame.draw.polygon(target, ink, [tip, *wings])

    def chip(self, target: pygame.Surface, label: str, right: tuple[int, int], colour: Colour) -> pygame.Rect:
        """Draw a small tag with the middle of its right side at a point."""
        box = pygame.Rect(0, 0, self.width(label, SMALL) + self.px(18), self.px(24))
        box.midright = right
        pygame.draw.rect(target, colour, box, border_radius=box.height // 2)
        self.text(target, label, box.center, SMALL, GROUND, "center")
        return box


def key_label(key: str) -> str:
    """What is printed on a key."""
    return KEY_NAMES.get(key, key.upper() if len(key) == 1 else key.title())
