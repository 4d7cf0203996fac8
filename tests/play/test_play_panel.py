import pygame
import pytest
from toy_game import ToyWorld

from worldsim.envs.play.layout import MIN_WINDOW, arrange
from worldsim.envs.play.panel import Measured, draw_panel, sections
from worldsim.envs.play.status import Status
from worldsim.envs.play.theme import SURFACE

FULL = Status("playing", 3, 223, 450.9, ending_chance=0.01, step_ms=30.0, hit_rate=0.9)


@pytest.mark.parametrize("size", [MIN_WINDOW, (1072, 482), (1600, 900)])
def test_a_panel_at_the_bottom_has_room_for_all_that_it_can_say(size):
    pygame.font.init()
    spec = ToyWorld().spec
    layout = arrange(size, spec, 2, panel=True)
    if not layout.panel_across:
        pytest.skip("the panel lies at the side")
    tall = pygame.Surface((size[0], size[1] + 400))
    tall.fill(SURFACE)
    draw_panel(tall, layout, spec, sections(spec, FULL, Measured(35.0, 20.0, 30.0)))
    assert layout.panel is not None
    below = pygame.surfarray.array3d(tall)[:, layout.panel.bottom :]
    assert (below == SURFACE).all()
