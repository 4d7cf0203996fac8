"""What all tests share."""

import os
import signal

os.environ.setdefault("TORCHINDUCTOR_VEC_ISA_OK", "1")  # or each program that compiles tries what the processor can

import pytest
import torch

LONG = ("test_example_recipes", "test_make", "test_compiled", "test_distributed", "test_learning", "test_agent_command")


def pytest_collection_modifyitems(items):
    """Files that take long come first, so that no worker is left alone with one at the end."""
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


@pytest.fixture(autouse=True, scope="session")
def signals_as_in_a_terminal():
    """Tests end programs by signals, which `nohup` and shells that run tests in the background let them ignore."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL)


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """The models are so small that more threads only get in each other's way; in programs that tests start, too."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="session")
def no_waiting_for_the_disk():
    """What a test writes need not outlive a power failure."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield
