import threading

import av
import numpy as np
import pygame
import pytest
from toy_game import ACTIONS, ToySource, ToyWorld

from worldsim.envs.play.keys import COMMANDS
from worldsim.envs.play.real import RealGame
from worldsim.envs.play.status import Settings
from worldsim.envs.play.window import Window
from worldsim.errors import MissingDependency


def _frame(player):
    """What is on the screen where the last frame is, one value a pixel of the world."""
    box = player.window.painter.layout.frames[-1]
    screen = pygame.surfarray.array3d(pygame.display.get_surface()).swapaxes(0, 1)
    return screen[box.top : box.bottom, box.left : box.right]


def test_action_keys_reach_the_world(play):
    world = ToyWorld(steps_per_second=100)
    player = play(world)
    player.down("left")
    player.until(lambda: 1 in world.actions)
    player.up("left")
    player.down("right")
    player.until(lambda: 2 in world.actions)
    player.up("right")
    player.until(lambda: world.actions[-1] == 0)


def test_a_quick_tap_is_not_lost(play):
    world = ToyWorld(steps_per_second=20)
    player = play(world)
    for _ in range(3):
        before = world.actions.count(1)
        player.tap("left")
        player.until(lambda before=before: world.actions.count(1) > before)


def test_the_screen_shows_whole_pixels_of_the_newest_frame(play):
    world = ToyWorld()
    player = play(world)
    player.tap("p")
    player.until(lambda: player.status.phase == "paused" and player.runner.feed.next_due() == float("inf"))
    player.steps(2)
    player.until(lambda: player.runner.feed.next_due() == float("inf"))
    shown = _frame(player)
    large, small = shown.shape[:2], (world.spec.height, world.spec.width)
    down, across = (n // m for n, m in zip(large, small, strict=True))
    assert (down * small[0], across * small[1]) == large
    frame = shown[::down, ::across]
    np.testing.assert_array_equal(shown, frame.repeat(down, 0).repeat(across, 1))
    expected = world.render(player.window.session.game.save().state.tree)[0]
    np.testing.assert_array_equal(frame, expected)
    assert len(np.unique(shown.reshape(-1, 3), axis=0)) > 20


def test_two_frames_a_step_reach_the_screen(play):
    player = play(ToyWorld(steps_per_second=5))
    player.until(lambda: player.window.shown > player.status.steps + 3)


def test_pause_stops_and_goes_on(play):
    world = ToyWorld(steps_per_second=200)
    player = play(world)
    player.tap("space")
    player.until(lambda: player.status.phase == "paused")
    steps = player.status.steps
    for _ in range(4):
        player.window.tick()
    assert player.status.steps == steps
    player.tap("p")
    player.until(lambda: player.status.steps > steps)


def test_single_steps_pause_the_game(play):
    world = ToyWorld(steps_per_second=50)
    player = play(world)
    player.tap("n")
    player.until(lambda: player.status.phase == "paused")
    player.steps(3)
    assert player.status.phase == "paused"


def test_reset_takes_the_next_seed(play):
    player = play(ToyWorld(), seed=3)
    player.tap("r")
    player.until(lambda: player.status.seed == 4)
    player.tap("return")
    player.until(lambda: player.status.seed == 5)


def test_save_and_restore_return_to_the_same_frame(play):
    player = play(ToyWorld())
    player.tap("p")
    player.until(lambda: player.status.phase == "paused")
    player.steps(3)
    player.tap("f5")
    player.until(lambda: "saved" in player.status.message)
    start = player.status.steps
    player.down("left")
    player.steps(5)
    session = player.window.session
    first = session.game.save()
    player.tap("f9")
    player.until(lambda: player.status.steps == start)
    player.steps(5)
    second = session.game.save()
    for name in ("frame", "player", "balls", "step"):
        np.testing.assert_array_equal(getattr(first.state.tree, name), getattr(second.state.tree, name))
    assert first.reward == second.reward


def test_the_end_is_announced_and_a_new_episode_begins_by_itself(play):
    player = play(ToyWorld(steps_per_second=100, ends_at=3))
    player.until(lambda: player.status.phase == "ended")
    assert player.status.ending == "the episode ended"
    player.until(lambda: player.status.seed == 1 and player.status.phase == "playing")


def test_enter_begins_a_new_episode_after_the_end(play):
    player = play(ToyWorld(steps_per_second=100, ends_at=3))
    player.until(lambda: player.status.phase == "ended")
    player.tap("return")
    player.until(lambda: player.status.seed == 1)


def test_recording_by_key_writes_a_whole_clip(play, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    player = play(ToyWorld(steps_per_second=50))
    player.tap("f6")
    player.until(lambda: player.status.recording is not None)
    steps = player.status.steps
    player.until(lambda: player.status.steps >= steps + 5)
    player.tap("f6")
    player.until(lambda: player.status.recording is None)
    (path,) = tmp_path.glob("toy-take-cover-*.mp4")
    with av.open(str(path)) as container:
        assert len(list(container.decode(video=0))) >= 10


def test_closing_finishes_the_clip(play, tmp_path):
    path = tmp_path / "clip.mp4"
    player = play(ToyWorld(steps_per_second=50), record=path)
    player.until(lambda: player.status.steps >= 5)
    player.tap("escape")
    player.until(lambda: player.window.closed)
    player.window.close()
    assert player.window.session.clips.written == [path]
    with av.open(str(path)) as container:
        assert len(list(container.decode(video=0))) >= 10


def test_tab_shows_the_real_game_at_the_left(play):
    world = ToyWorld()
    player = play(world, open_real=lambda: RealGame(ToySource(), world.spec))
    player.tap("tab")
    player.until(lambda: player.status.side_by_side and len(player.window.painter.layout.frames) == 2)
    left, right = player.window.painter.layout.frames
    assert left.right < right.left
    player.tap("tab")
    player.until(lambda: len(player.window.painter.layout.frames) == 1)


def test_tab_without_the_simulator_says_how_to_get_it(play):
    def missing():
        raise MissingDependency("no simulator; get it with `pip install it`")

    player = play(ToyWorld(), open_real=missing)
    player.tap("tab")
    player.until(lambda: "pip install it" in player.status.message)


def test_the_key_table_lists_every_key(play):
    player = play(ToyWorld())
    painter = player.window.painter
    rows = [*painter.rows[0], *painter.rows[1]]
    listed = {key for keys, _ in rows for key in keys}
    assert listed == {"left", "right"} | {key for command in COMMANDS for key in command.keys}
    before = pygame.surfarray.array3d(pygame.display.get_surface())
    player.tap("p", "f1")
    player.until(lambda: painter.table_open)
    player.window.tick()
    assert (pygame.surfarray.array3d(pygame.display.get_surface()) != before).any()
    player.tap("escape")  # closes the table, not the window
    player.until(lambda: not painter.table_open)
    assert not player.window.closed


def test_the_panel_can_be_hidden_and_leaves_its_room_to_the_frame(play):
    player = play(ToyWorld())
    painter = player.window.painter
    pygame.display.set_mode((1000, 440), pygame.RESIZABLE)
    painter.lay_out()
    player.until(lambda: painter.layout is not None and painter.layout.panel is not None)
    before = painter.layout.frames[0].height
    player.tap("f2")
    player.until(lambda: painter.layout is not None and painter.layout.panel is None)
    assert painter.layout.frames[0].height > before


def test_speed_keys_change_the_speed(play):
    player = play(ToyWorld())
    player.tap("=")
    player.until(lambda: player.status.speed == 1.5)
    player.tap("-", "-")
    player.until(lambda: player.status.speed == 0.75)


@pytest.mark.parametrize("size", [(300, 200), (640, 1000), (1600, 500), (2560, 1440)])
def test_any_window_size_is_drawn(play, size):
    player = play(ToyWorld())
    for table in (False, True):
        if table:
            player.tap("f1")
        pygame.display.set_mode(size, pygame.RESIZABLE)
        pygame.event.post(pygame.event.Event(pygame.VIDEORESIZE, size=size, w=size[0], h=size[1]))
        shown = player.window.shown
        player.until(lambda shown=shown: player.window.shown > shown + 2)
        layout = player.window.painter.layout
        assert layout.panel is None or not layout.panel.colliderect(layout.frames[0]) or size[0] < 640


def test_full_screen_and_back(play):
    player = play(ToyWorld())
    size = pygame.display.get_window_size()
    player.tap("f11")
    player.until(lambda: pygame.display.get_surface().get_flags() & pygame.FULLSCREEN)
    player.tap("f11")
    player.until(lambda: not pygame.display.get_surface().get_flags() & pygame.FULLSCREEN)
    assert pygame.display.get_window_size() == size


def test_key_presses_are_timed_until_their_frame(play):
    player = play(ToyWorld(steps_per_second=50))
    for _ in range(3):
        player.tap("left")
        shown = player.window.shown
        player.until(lambda shown=shown: player.window.shown > shown + 4)
    assert player.window.latency.milliseconds(50) > 0


def test_what_breaks_in_the_model_thread_surfaces_with_its_traceback(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    world = ToyWorld(steps_per_second=100)

    def fail():
        raise RuntimeError("the toy broke")

    world.at_step[3] = fail
    window = Window(world, Settings())
    with pytest.raises(RuntimeError, match="the toy broke") as caught:
        window.run()
    assert caught.traceback[-1].name == "fail"
    assert not pygame.display.get_init()
    assert threading.active_count() == 1 or "worldsim-play-model" not in {t.name for t in threading.enumerate()}


def test_run_closes_after_its_time(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    window = Window(ToyWorld(steps_per_second=100), Settings())
    window.run(max_seconds=0.3)
    assert window.shown > 0
    assert not pygame.display.get_init()


def test_a_world_that_names_no_keys_can_be_played(play):
    world = ToyWorld(steps_per_second=100, actions=ACTIONS.__class__(n=3))
    player = play(world)
    player.down("2")
    player.until(lambda: 2 in world.actions)
