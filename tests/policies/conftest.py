import pytest


@pytest.fixture(scope="module")
def world():
    """A tiny world whose real game is the counter."""
    from game import counter_world

    return counter_world()
