import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from toy import CONTINUOUS, LatentToy, ToyWorld

from worldsim.envs import WorldEnv
from worldsim.envs.window import _say_that_nobody_sees_it
from worldsim.errors import InvalidInput, InvalidState


def test_the_window_shows_every_frame_enlarged(dummy_display):
    import pygame

    env = WorldEnv(ToyWorld(between=1), render_mode="human")
    observation, _ = env.reset(seed=0)
    shown = pygame.surfarray.array3d(pygame.display.get_surface())
    assert shown.shape == (512, 512, 3)
    assert np.array_equal(shown[::32, ::32].swapaxes(0, 1), observation)
    flips = []
    original, pygame.display.flip = pygame.display.flip, lambda: flips.append(1)
    try:
        env.step(0)
    finally:
        pygame.display.flip = original
    assert len(flips) == 2
    assert env.render() is None
    env.close()
    env.close()
    assert not pygame.display.get_init()


@pytest.fixture
def no_display(monkeypatch):
    """No display, and a process that was not told of it."""
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER", "SDL_VIDEO_DRIVER"):
        monkeypatch.delenv(name, raising=False)
    _say_that_nobody_sees_it.cache_clear()


@pytest.mark.filterwarnings("error")
def test_without_a_display_the_log_says_once_that_nobody_sees_the_window(no_display, caplog):
    for _ in range(2):
        env = WorldEnv(ToyWorld(), render_mode="human")
        env.reset(seed=0)
        env.step(0)
        env.close()
    assert [record.name for record in caplog.records] == ["worldsim"]
    assert "nobody sees it; run where DISPLAY is set" in caplog.text


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("observation", ["pixels", "latents"])
def test_gymnasiums_checker_finds_nothing_without_a_display(observation, no_display):
    check_env(gym.make("worldsim/DoomTakeCover-v0", world=LatentToy(size=64), observation=observation).unwrapped)


def test_a_display_that_cannot_be_opened_is_refused(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "none_of_that_name")
    with pytest.raises(InvalidInput, match=r"no display .*none_of_that_name"):
        WorldEnv(ToyWorld(), render_mode="human")


def test_without_pygame_the_window_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pygame", None)
    with pytest.raises(ImportError, match="worldsim\\[play\\]"):
        WorldEnv(ToyWorld(), render_mode="human")
    with pytest.raises(ImportError, match="worldsim\\[play\\]"):
        WorldEnv(ToyWorld()).get_keys_to_action()


def test_keys_lead_to_actions():
    import pygame

    keys = WorldEnv(ToyWorld()).get_keys_to_action()
    assert keys == {(pygame.K_LEFT,): 1, tuple(sorted((pygame.K_RIGHT, pygame.K_d))): 2}
    with pytest.raises(InvalidState, match="keys"):
        WorldEnv(ToyWorld(CONTINUOUS)).get_keys_to_action()


@pytest.mark.filterwarnings("ignore")  # gymnasium's play warns of matplotlib's missing Tk
def test_gymnasiums_play_takes_the_keys(dummy_display):
    import pygame
    from gymnasium.utils.play import play as gym_play

    taken = []

    def press(_before, _after, action, *_rest):
        taken.append(action)
        if len(taken) == 2:
            pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=pygame.K_LEFT))
        if len(taken) == 4:
            pygame.event.post(pygame.event.Event(pygame.QUIT))

    gym_play(WorldEnv(ToyWorld(), render_mode="rgb_array"), callback=press, fps=1000, seed=0)
    assert taken[:2] == [0, 0] and taken[-1] == 1
