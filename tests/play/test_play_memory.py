"""The window of a world that remembers places: its plan from above, and the key that switches memory off and on."""

import numpy as np
import pygame
import pytest
from places import make_world, world_of
from toy_game import ToyWorld

from worldsim.envs.play.game import Game
from worldsim.envs.play.layout import arrange
from worldsim.envs.play.panel import Measured, draw_panel, sections
from worldsim.envs.play.plan import draw_plan
from worldsim.envs.play.status import Status
from worldsim.envs.play.theme import ACCENT, GOOD, SURFACE, Theme
from worldsim.memory.base import FromAbove

PLAN = FromAbove(
    points=np.random.default_rng(0).uniform(-100, 100, (200, 2)).astype(np.float32),
    views=np.array([[0, 0, 0], [50, 0, 1], [50, 50, 2]], np.float32),
    recalled=np.array([False, True, False]),
    here=np.array([20, 60, 3], np.float32),
)


def has(surface, colour):
    return (pygame.surfarray.array3d(surface) == colour[:3]).all(-1).any()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return world_of(make_world(tmp_path_factory.mktemp("room"))[2])


def test_a_plan_shows_where_one_is_and_what_is_recalled_inside_its_box():
    target, box = pygame.Surface((300, 200)), pygame.Rect(20, 10, 200, 150)
    target.fill(SURFACE)
    draw_plan(target, Theme(1.0), box, PLAN)
    assert has(target, GOOD) and has(target, ACCENT)
    outside = target.copy()
    outside.fill(SURFACE, box)
    assert (pygame.surfarray.array3d(outside) == SURFACE[:3]).all()
    nothing = FromAbove(*(part[:0] for part in (PLAN.points, PLAN.views, PLAN.recalled)), PLAN.here)
    draw_plan(target, Theme(1.0), box, nothing)


@pytest.mark.parametrize("size", [(1600, 900), (1250, 700), (640, 420)])
def test_the_panel_says_whether_memory_is_on_and_shows_the_plan(size):
    pygame.font.init()
    spec, status = ToyWorld().spec, Status("playing", memory=False, plan=PLAN)
    layout, target = arrange(size, spec, 1, panel=True), pygame.Surface(size)
    blocks = sections(spec, status, Measured())
    assert blocks[-1].rows[-1] == ("memory", "off, 3 views")
    draw_panel(target, layout, spec, blocks, status.plan)
    assert has(target, GOOD) or size == (640, 420)  # which has no room for it


def test_a_world_is_seen_from_above_while_it_is_played(world):
    game = Game(world)
    game.start(0)
    for _ in range(8):
        game.step(np.array([1]))
    plan = game.env.from_above()
    assert len(plan.views) == min(game.env.memory["keyframes"]["count"].item(), 6) and plan.recalled.any()
    assert np.isfinite(plan.points).all() and len(plan.points) > 20
    np.testing.assert_allclose(plan.here, world.streams(game.env._now.state)["pose"][0, [0, 1, 3]], rtol=1e-5)


def test_the_memory_key_switches_off_and_on_and_the_game_goes_on(world, play):
    player = play(world)
    player.tap("p")
    player.until(lambda: player.status.phase == "paused")
    player.steps(3)
    assert player.status.memory is True and player.status.plan is not None
    player.tap("m")
    player.until(lambda: player.status.memory is False)
    assert "off" in player.status.message
    player.steps(1)
    assert player.status.steps == 4
    player.tap("m")
    player.until(lambda: player.status.memory is True)


def test_a_world_without_memory_says_so(play):
    player = play(ToyWorld())
    player.tap("m")
    player.until(lambda: "no memory" in player.status.message)
    assert player.status.memory is None and player.status.plan is None
