import sys
import types

import pytest
from toy import ToyWorld

from worldsim.envs.sources import make_source
from worldsim.registration import register_worlds

register_worlds()


@pytest.fixture
def made():
    """`make_source` whose sources are closed after the test."""
    sources = []

    def make(name, **options):
        sources.append(make_source(name, **options))
        return sources[-1]

    yield make
    for source in sources:
        source.close()


@pytest.fixture
def by_name(monkeypatch):
    """Make every world's name load one toy world, which is returned; the shipped models are not touched."""
    world = ToyWorld(size=64, limit=525)
    module = types.ModuleType("worldsim.world")
    module.World = types.SimpleNamespace(from_pretrained=lambda name, device="auto": world)
    monkeypatch.setitem(sys.modules, "worldsim.world", module)
    return world


@pytest.fixture(autouse=True)
def told_of_no_options(monkeypatch):
    """Have every test told of the options that are ignored, which a process is told once."""
    monkeypatch.setattr("worldsim.envs.starts._ignored", set())


@pytest.fixture
def dummy_display(monkeypatch):
    """Let pygame open windows that nobody sees."""
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
