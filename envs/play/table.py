"""The key table (F1): every key of the world and of the window."""

from __future__ import annotations

import math

import pygame

from worldsim.envs.play.keys import COMMANDS, ActionKeys
from worldsim.envs.play.theme import BODY, DIM, LINE, SMALL, SURFACE, TEXT, Theme

Row = tuple[tuple[str, ...], str]  # keys, what they do

ROW, PAD, GAP = 32, 28, 40  # heights and distances in units of the theme
LEAST_UNIT = 0.5  # pixels: below, letters are too small to draw


def table_rows(actions: ActionKeys, bound: dict[str, tuple[str, ...]]) -> tuple[list[Row], list[Row]]:
    """The rows of the world's actions and of the window's commands."""
    return actions.table(), [(bound[command.name], command.text) for command in COMMANDS]


def draw_table(size: tuple[int, int], unit: float, world: list[Row], window: list[Row]) -> pygame.Surface:
    """The table as a card that fits into a window of this size, with all rows: in more columns where it is low."""
    theme = Theme(unit)
    while True:
        columns = _columns(theme, size[1], world, window)
        widths = [_column_width(theme, rows) for _, rows in columns]
        width = sum(widths) + theme.px(2 * PAD) + theme.px(GAP) * (len(columns) - 1)
        height = theme.px(2 * PAD + ROW * (1 + max(len(rows) for _, rows in columns)))
        if (width <= size[0] and height <= size[1]) or theme.unit <= LEAST_UNIT:
            break
        theme = Theme(max(LEAST_UNIT, theme.unit - 0.125))
    card = pygame.Surface((width, height), pygame.SRCALPHA)
    whole = card.get_rect()
    pygame.draw.rect(card, SURFACE, whole, border_radius=theme.px(12))
    pygame.draw.rect(card, LINE, whole, width=1, border_radius=theme.px(12))
    x = theme.px(PAD)
    for (title, rows), column in zip(columns, widths, strict=True):
        _draw_column(card, theme, x, title, rows)
        x += column + theme.px(GAP)
    shrunk = whole.fit(pygame.Rect(0, 0, *size))  # letters would be too small to draw: shrink the card as it is
    return card if width <= size[0] and height <= size[1] else pygame.transform.smoothscale(card, shrunk.size)


def _columns(theme: Theme, height: int, world: list[Row], window: list[Row]) -> list[tuple[str, list[Row]]]:
    """Title and rows of every column, as many as a window of this height in pixels needs."""
    most = max(1, int((height / theme.unit - 2 * PAD) / ROW) - 1)  # rows under a title
    columns = []
    for title, rows in (("in the world", world), ("window", window)):
        parts = max(1, math.ceil(len(rows) / most))
        length = math.ceil(len(rows) / parts)
        columns += [(title if i == 0 else "", rows[i * length : (i + 1) * length]) for i in range(parts)]
    return columns


def _caps_width(theme: Theme, rows: list[Row]) -> int:
    gap = theme.px(5)
    return max((sum(theme.cap_width(key) + gap for key in keys) for keys, _ in rows), default=0)


def _column_width(theme: Theme, rows: list[Row]) -> int:
    texts = max((theme.width(text, BODY) for _, text in rows), default=0)
    return max(theme.px(120), _caps_width(theme, rows) + theme.px(14) + texts)


def _draw_column(card: pygame.Surface, theme: Theme, left: int, title: str, rows: list[Row]) -> None:
    y = theme.px(PAD + ROW / 2)
    theme.text(card, title.upper(), (left, y - theme.px(4)), SMALL, DIM)
    text_left = left + _caps_width(theme, rows) + theme.px(14)
    for keys, text in rows:
        y += theme.px(ROW)
        x = left
        for key in keys:
            x = theme.cap(card, key, (x, y)).right + theme.px(5)
        theme.text(card, text, (text_left, y), BODY, TEXT)
