import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """The models are so small that more threads only get in each other's way."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def world():
    """A tiny world whose real game is the counter."""
    from game import counter_world

    return counter_world()
