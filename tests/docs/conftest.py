import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Code blocks take few steps; more threads would only get in the way of other tests."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
