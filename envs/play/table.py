"""The key table (F1): every key of the world and of the window."""

from __future__ import annotations

import pygame

from worldsim.envs.play.keys import COMMANDS, ActionKeys
from worldsim.envs.play.theme import BODY, DIM, LINE, SMALL, SURFACE, TEXT, Theme

Row = tuple[tuple[str, ...], str]  # keys, what they do

ROW, PAD, GAP = 32, 28, 40  # heights and distances in units of the theme


def table_rows(actions: ActionKeys, bound: dict[str, tuple[str, ...]]) -> tuple[list[Row], list[Row]]:
    """The rows of the world's actions and of the window's commands."""
    return actions.table(), [(bound[command.name], command.text) for command in COMMANDS]


def draw_table(size: tuple[int, int], unit: float, world: list[Row], window: list[Row]) -> pygame.Surface:
    """The table as a card that fits into a window of this size."""
    theme = Theme(unit)
    while True:
        widths = [_column_width(theme, rows) for rows in (world, window)]
        width = sum(widths) + theme.px(2 * PAD + GAP)
        height = theme.px(2 * PAD + ROW * (1 + max(len(world), len(window))))
        if (width <= size[0] and height <= size[1]) or theme.unit <= 0.5:
            break
        theme = Theme(theme.unit - 0.125)
    card = pygame.Surface((width, height), pygame.SRCALPHA)
    whole = card.get_rect()
    pygame.draw.rect(card, SURFACE, whole, border_radius=theme.px(12))
    pygame.draw.rect(card, LINE, whole, width=1, border_radius=theme.px(12))
    x = theme.px(PAD)
    for title, rows, column in zip(("in the world", "window"), (world, window), widths, strict=True):
        _draw_column(card, theme, x, title, rows)
        x += column + theme.px(GAP)
    return card


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
