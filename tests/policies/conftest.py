import pytest
from fixtures import one_thread  # noqa: F401


@pytest.fixture(scope="module")
def world():
    """A tiny world whose real game is the counter."""
    from game import counter_world

    return counter_world()
