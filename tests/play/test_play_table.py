"""The key table fits into every window, whole and legible."""

import os

import numpy as np
import pytest

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
import pygame

from worldsim.envs.play import table
from worldsim.envs.play.keys import COMMANDS, ActionKeys, bind_commands
from worldsim.envs.play.layout import unit_for
from worldsim.envs.play.table import draw_table, table_rows
from worldsim.envs.play.theme import Theme, forget_fonts
from worldsim.spec import ActionSpec

FEW = ActionSpec(n=3, meanings=("NOOP", "LEFT", "RIGHT"), keys=((), ("left",), ("right",)))
MANY = ActionSpec(
    n=20, meanings=tuple(f"ACTION {i}" for i in range(20)), keys=tuple((c,) for c in "abcdefghijklmoqstuvw")
)


@pytest.fixture(autouse=True)
def fonts():
    pygame.font.init()
    yield
    forget_fonts()
    pygame.font.quit()


@pytest.mark.parametrize("spec", [FEW, MANY], ids=["few", "many"])
@pytest.mark.parametrize("size", [(1280, 720), (1280, 300), (640, 420), (640, 200), (300, 200), (900, 90), (200, 900)])
def test_the_table_lies_whole_in_the_window(monkeypatch, spec, size):
    actions, drawn = ActionKeys(spec), []
    draw_column = table._draw_column

    def watch(card, theme, left, title, rows):
        right = left + table._column_width(theme, rows)
        bottom = theme.px(table.PAD + table.ROW * (1 + len(rows)))
        assert card.get_rect().contains(pygame.Rect(left, 0, right - left, bottom))
        drawn.extend(text for _, text in rows)
        draw_column(card, theme, left, title, rows)

    monkeypatch.setattr(table, "_draw_column", watch)
    card = draw_table(size, unit_for(size), *table_rows(actions, bind_commands(actions)))
    assert card.get_width() <= size[0] and card.get_height() <= size[1]
    assert drawn == [text for _, text in actions.table()] + [command.text for command in COMMANDS]


def test_a_low_window_gets_more_columns_before_smaller_letters():
    actions = ActionKeys(FEW)
    rows = table_rows(actions, bind_commands(actions))
    assert len(table._columns(Theme(1.0), 720, *rows)) == 2
    columns = table._columns(Theme(1.0), 300, *rows)
    assert [title for title, _ in columns] == ["in the world", "window", "", ""]
    low, high = draw_table((1280, 300), 1.0, *rows), draw_table((1280, 720), 1.0, *rows)
    assert low.get_width() > high.get_width() and low.get_height() <= 300
    assert np.unique(pygame.surfarray.array3d(low)).size > 10  # something is written on it
