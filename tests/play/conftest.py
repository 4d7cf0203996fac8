import threading
import time

import pygame
import pytest

from worldsim.envs.play.status import Settings
from worldsim.envs.play.window import Window

PATIENCE = 60.0  # seconds; only so that a test fails instead of hanging


class Player:
    """A window whose events and drawing the test drives, with keys that go through pygame's event queue."""

    def __init__(self, world, settings):
        self.window = Window(world, settings)
        self.runner = self.window.runner
        self.runner.start()
        self.until(lambda: self.window.shown >= 1)

    @property
    def status(self):
        return self.runner.status

    def down(self, *keys):
        for key in keys:
            pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=pygame.key.key_code(key)))

    def up(self, *keys):
        for key in keys:
            pygame.event.post(pygame.event.Event(pygame.KEYUP, key=pygame.key.key_code(key)))

    def tap(self, *keys):
        for key in keys:
            self.down(key)
            self.up(key)

    def until(self, done):
        deadline = time.monotonic() + PATIENCE
        while not done():
            assert time.monotonic() < deadline, f"waited in vain; {self.status}, {self.runner.error!r}"
            assert not self.window.closed or done(), repr(self.runner.error)
            self.window.tick()

    def steps(self, count):
        """Play `count` single steps with the step key, from a pause."""
        for _ in range(count):
            before = self.status.steps
            self.tap("n")
            self.until(lambda before=before: self.status.steps == before + 1)


@pytest.fixture
def play(monkeypatch):
    """Opens windows that nobody sees, and holds that they leave no thread behind."""
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    players = []

    def open_player(world, **settings):
        players.append(Player(world, Settings(**settings)))
        return players[-1]

    yield open_player
    for player in players:
        player.window.close()
    assert not [t for t in threading.enumerate() if t.name == "worldsim-play-model"]
